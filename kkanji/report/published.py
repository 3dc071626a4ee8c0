"""The only published figures of kanji recognition on this data without a leak, to judge a run's order of magnitude.

cgn-shinkirou/kkanji (2022): an ImageNet ResNet-152 at 224 pixels, singletons dropped, the originals of the other 3,017
classes split in halves before training. No other split has been published, so none of this is a comparison.
"""

PUBLISHED_TOP1 = {"1": 0.52, "2-5": 0.75, "6-10": 0.86, "11-20": 0.91, "51-100": 0.96, "151+": 0.965}
PUBLISHED_OVERALL_TOP1 = 0.9428
PUBLISHED_WEIGHTED_F1 = 0.9416
LEAST_CLASSES = 3000  # with fewer classes the task differs, and the figures would mislead


def applies(classes: int) -> bool:
    """Whether a run with this number of classes is comparable in task to the published one."""
    return classes >= LEAST_CLASSES
