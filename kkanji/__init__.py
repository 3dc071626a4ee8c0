"""Characters and networks: class map, augmentation, the DALI pipeline, models, training, evaluation, report."""

__version__ = "0.1.0"
