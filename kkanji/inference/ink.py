"""Find one character in a picture of it, and lay it out as the data's are: white ink on black, cropped to the ink, the
longer side 64 pixels, in the middle.

All functions are pure. A picture is worked on with its longer side at one length, so that lengths in pixels are
fractions of it. Ink is a density, from 0 (paper) to 1 (as dark as most of the ink).

1. A picture that is like the data's images is left alone (`is_clean`).
2. Strips along the edges that are not the sheet, such as a scanner's lid or a dark table, are cut off.
3. The paper is the local median, and ink is on the side of it where more stands out. Then the paper's surface is made
   anew by a morphological closing, which keeps the edges of shadows, and the ink is measured against it.
4. Frames, rules, the rest of a surround, and parts of neighbours are taken out.
5. What is left is cropped and scaled.
"""

from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from shards.format.layout import IMAGE_SIZE

Gray: TypeAlias = NDArray[np.uint8]
Density: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]

WORK = 320  # pixels of the longer side: five for each that the model sees
EDGE = 9  # pixels across: what is taken out goes with its soft edges


def find_ink(picture: Gray) -> Gray:
    """The character in a picture uint8 [H, W] or [H, W, 3], as uint8 [64, 64]: white ink on black.

    A picture without ink gives a black image.
    """
    gray = discounted(picture)
    for clean in (gray, 255 - gray):
        if is_clean(clean):
            return clean
    small = resized(picture)
    sheet = without_strips(under_seals(discounted(small), seal_of(small)))
    ink = density(sheet)
    other = (ink > 0.5) & ~ink_of_character(ink > 0.5)
    return lay_out(np.where(cv2.dilate(other.astype(np.uint8), np.ones((EDGE, EDGE), np.uint8)) > 0, 0, ink))


# ----------------------------------------------------------------------------------------------------------------------
# The picture

REDDER, DARKEST_SEAL = 0.25, 60  # (red - green) / red of a seal above the paper's; levels of red: below, it is noise


def is_clean(gray: Gray) -> bool:
    """Whether a picture is like the data's images: of their size, white on black, with few levels between.

    All 113,771 of them that are not blank are: at least 20 % of their pixels are below 16, at most 54 % from 16 to 239,
    at most 66 % above 128, their strongest is at least 240 (here 200), and at most 94 % of an edge is ink.
    """
    if gray.shape != (IMAGE_SIZE, IMAGE_SIZE) or gray.max() < 200:
        return False
    black, white, ink = (gray < 16).mean(), (gray >= 240).mean(), gray > 128
    edges = max(edge.mean() for edge in (ink[0], ink[-1], ink[:, 0], ink[:, -1]))
    return bool(black >= 0.2 and 1 - black - white <= 0.55 and ink.mean() <= 0.67 and edges <= 0.95)


def seal_of(picture: Gray) -> Mask:
    """Where a picture uint8 [H, W, 3] is redder than its paper: the ink of seals."""
    if picture.ndim == 2:
        return np.zeros(picture.shape, np.bool_)
    red, green = picture[..., 0].astype(np.float32), picture[..., 1].astype(np.float32)
    redness = (red - green) / np.maximum(red, DARKEST_SEAL)
    return np.asarray(redness > max(np.median(redness), 0) + REDDER)


def discounted(picture: Gray) -> Gray:
    """Gray levels in which colour is as bright as paper: of red, green and blue the strongest. So seals are faint."""
    return picture if picture.ndim == 2 else picture.max(axis=2)


def resized(gray: Gray, side: int = WORK) -> Gray:
    """The same with this many pixels in the longer side."""
    height, width = gray.shape[:2]
    scale = side / max(height, width)
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    return np.asarray(cv2.resize(gray, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC), np.uint8)


LEAST_SEAL, MOST_SEAL = 0.002, 0.5  # of the picture: less is noise, and more is the paper
APART = 1.6  # standard deviations between paper and ink under a seal; the halves of any normal distribution have 1.3
RING = 5  # pixels across the outline of a seal, where it is neither its colour nor the paper's


def under_seals(gray: Gray, seal: Mask) -> Gray:
    """What lies under seals in place of them.

    Where ink shows through, the contrast is stretched to that of the rest; what is opaque is filled in from beside it.
    """
    if not LEAST_SEAL < seal.mean() < MOST_SEAL:
        return gray
    square = np.ones((RING, RING), np.uint8)
    low, high = _levels_under(np.asarray(cv2.GaussianBlur(gray, (0, 0), NOISE), np.uint8)[seal])
    if low == high:
        return np.asarray(
            cv2.inpaint(gray, cv2.dilate(seal.astype(np.uint8), square), RING, cv2.INPAINT_TELEA), np.uint8
        )
    dark, paper = np.percentile(gray[~seal], (5, 60))
    stretched = np.where(seal, np.clip(paper - (high - gray) / (high - low) * (paper - dark), dark, paper), gray)
    outline = cv2.morphologyEx(seal.astype(np.uint8), cv2.MORPH_GRADIENT, square) > 0
    stretched = stretched.astype(np.uint8)
    return np.where(outline, cv2.medianBlur(stretched, 2 * RING + 1), stretched)


def _levels_under(seal: Gray) -> tuple[float, float]:
    """The levels of ink and of paper among those under a seal [n], which are equal if there are not both."""
    middle = cv2.threshold(seal.reshape(-1, 1), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[0]
    low, high = seal[seal <= middle], seal[seal > middle]
    if len(low) and len(high) and distance(low, high) > APART:
        return float(low.mean()), float(high.mean())
    return float(seal.mean()), float(seal.mean())


# ----------------------------------------------------------------------------------------------------------------------
# The sheet

STRIP, SHEET = 0.92, 0.5  # how much of a line across a strip is of one kind, and of the next line of the other kind
BEYOND = 0.35  # of the sheet's lines is of the other kind too: a margin that ends at a character's line is no strip
WIDEST_STRIP = 0.35  # of the side
STEEP = 5  # pixels between the two lines at most: the edges of strokes are not as straight


def without_strips(gray: Gray) -> Gray:
    """Cut strips off that are all dark or all bright and end in a straight edge. What is left is at least a fifth."""
    sheet = gray
    for _ in range(2):  # a side's strip may come to light only when that of another is gone
        for turns in range(4):
            sheet = np.rot90(_without_upper_strip(np.rot90(sheet, turns)), -turns)
    return np.ascontiguousarray(sheet) if sheet.size >= gray.size / 5 else gray


def _without_upper_strip(gray: Gray) -> Gray:
    bright = cv2.threshold(np.ascontiguousarray(gray), 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[1].mean(axis=1)
    first = bright if bright[0] > 0.5 else 1 - bright  # how much of each line is as the first one is
    width = int(np.argmax(first < STRIP))
    if first[0] < STRIP or not 0 < width < WIDEST_STRIP * len(gray):
        return gray
    begins = first[width : width + STEEP] <= 1 - SHEET
    beyond = np.median(first[width + STEEP :][: len(gray) // 3]) <= 1 - BEYOND
    return gray[width + int(np.argmax(begins)) + 1 :] if begins.any() and beyond else gray


# ----------------------------------------------------------------------------------------------------------------------
# The ink

SMALL = 80  # pixels of the longer side when the local median is taken
WIDEST_STROKE = 0.3  # of the longer side: the closing's width
NOISE = 1.5  # pixels: paper's grain is smoothed before its surface is made


def density(gray: Gray) -> Density:
    """How much ink there is at each pixel, float32 [H, W] from 0 to 1."""
    dark = gray if _is_dark_on_light(gray) else 255 - gray
    smooth = cv2.GaussianBlur(dark, (0, 0), NOISE)
    width = int(WIDEST_STROKE * max(gray.shape))
    paper = cv2.morphologyEx(smooth, cv2.MORPH_CLOSE, np.ones((width, width), np.uint8))
    ink = 1 - np.minimum(dark, paper) / np.maximum(paper, 1)
    return _contrasted(_sharpened(_stretched(ink.astype(np.float32))))


def _is_dark_on_light(gray: Gray) -> bool:
    small = resized(gray, SMALL)
    beyond = small - cv2.medianBlur(small, SMALL // 5 * 3 + 1).astype(np.float32)
    return bool((np.minimum(beyond, 0) ** 2).sum() >= (np.maximum(beyond, 0) ** 2).sum())


DARK = 90  # percentile: where the page's other side shows through, less than half may be the character's own ink
FAINTEST = 0.06  # of the paper's brightness: less is no ink
# The halves of grain lie 1.3 to 1.55 standard deviations apart and are equal. Of blurred ink 1.9, and ink is smaller.
GRAIN_APART, GRAIN_PART = 1.7, 0.42


def _stretched(ink: Density) -> Density:
    """The paper about 0 and most of the ink about 1; all 0 for paper alone."""
    levels = np.clip(np.rint(ink * 255), 0, 255).astype(np.uint8)
    above = ink > cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[0] / 255
    if not above.any():
        return np.zeros_like(ink)
    low, high = float(np.median(ink[~above])), float(np.percentile(ink[above], DARK))
    if high - low < FAINTEST or (above.mean() > GRAIN_PART and distance(ink[~above], ink[above]) < GRAIN_APART):
        return np.zeros_like(ink)
    return np.asarray((ink - low) / (high - low), np.float32)


LOW, HIGH = 0.3, 0.8  # densities that become 0 and 1: less than that is the page's other side, or grain


def _contrasted(ink: Density) -> Density:
    """With edges about as steep as the data's."""
    return np.asarray(np.clip((ink - LOW) / (HIGH - LOW), 0, 1), np.float32)


SHARP = 5.0  # pixels of blur: pictures of 200 and more have 2, of 24 have 6, of 16 have 9
SHAPELESS = 12.0  # pixels of blur: more has no picture of 16 pixels and more; light that falls off has 15 to 24
ITERATIONS = 25
OVERSHOOT = 0.9  # of the blur: taking all of it away would sharpen the edges' roundness too


def _sharpened(ink: Density) -> Density:
    """What is out of focus, or was enlarged, with its blur taken away: by Richardson and Lucy's deconvolution.

    W. H. Richardson, Bayesian-based iterative method of image restoration, J. Opt. Soc. Am. 62 (1972), 55; L. B. Lucy,
    An iterative technique for the rectification of observed distributions, Astron. J. 79 (1974), 745.
    """
    blur = blur_of(ink)
    if blur < SHARP:
        return ink
    if blur > SHAPELESS:
        return np.zeros_like(ink)
    small = np.maximum(cv2.resize(ink, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), 0) + 1e-3
    sharp, width = np.asarray(small, np.float32), OVERSHOOT * blur / 2
    for _ in range(ITERATIONS):
        sharp = sharp * _blurred(np.asarray(small / (_blurred(sharp, width) + 1e-4), np.float32), width)
    large = cv2.resize(sharp, ink.shape[::-1], interpolation=cv2.INTER_CUBIC)
    return _stretched(np.clip(large, 0, 1.5).astype(np.float32))


def blur_of(ink: Density) -> float:
    """Standard deviation in pixels of the blur of ink's edges: a blurred edge's slope is 1 / (sqrt(2 pi) of it)."""
    smooth = _blurred(ink, NOISE)
    slope = np.hypot(*(cv2.Sobel(smooth, cv2.CV_32F, *along) / 8 for along in ((1, 0), (0, 1))))
    edges = slope[np.abs(smooth - 0.5) < 0.1]
    return float(1 / np.sqrt(2 * np.pi) / np.percentile(edges, 75)) if len(edges) else 0.0


def _blurred(levels: Density, deviation: float) -> Density:
    return cv2.GaussianBlur(levels, (0, 0), deviation).astype(np.float32)


def distance(low: NDArray[Any], high: NDArray[Any]) -> float:
    """Between the means of two groups of levels, in the sum of their standard deviations."""
    return float((np.mean(high) - np.mean(low)) / max(np.std(high) + np.std(low), 1e-6))


# ----------------------------------------------------------------------------------------------------------------------
# What is not the character

TOUCHING, RIM = 0.4, 0.25  # of an edge: 0.4 % of the data's images have ink along so much of it; and depth of such ink
RULE, RULE_ZONE, RULE_WIDTH = 0.9, 0.15, 0.07


def ink_of_character(mask: Mask) -> Mask:
    """The mask of ink [H, W] without rims, rules and neighbours; as it was if next to nothing would be left."""
    inner = mask
    for turns in range(4):
        if _is_surround(np.rot90(mask, turns)[0]):
            inner = np.rot90(_without_rim(np.rot90(inner, turns)), -turns)
    rules = [np.rot90(_without_rule(np.rot90(inner, turns)), -turns) for turns in range(4)]
    kept = np.ascontiguousarray(np.logical_and.reduce(rules))
    kept = _without_neighbours(_without_neighbours(kept, DEEPEST).T, DEEPEST_AT_SIDES).T
    return kept if kept.sum() > 0.1 * mask.sum() else mask


def _is_surround(edge: Mask) -> bool:
    """Whether the ink of an edge [W] is the rest of a surround, which reaches a corner: strokes seldom do."""
    return bool(edge.mean() >= TOUCHING and (edge[0] or edge[-1]))


def _without_rim(mask: Mask) -> Mask:
    """Without what hangs on the upper edge: the rest of a surround, be it askew."""
    depth = np.where(mask.all(axis=0), len(mask), np.argmin(mask, axis=0))
    depth[depth > RIM * len(mask)] = 0
    return np.asarray(mask & (np.arange(len(mask))[:, None] >= depth + 1))


def _without_rule(mask: Mask) -> Mask:
    """Without a straight line along the upper edge, and what is beyond it."""
    filled = mask.mean(axis=1)
    zone = int(RULE_ZONE * len(mask))
    lines = np.flatnonzero(filled[:zone] >= RULE)
    if not len(lines):
        return mask
    first, last = lines[0], lines[-1]
    before = first < STEEP or filled[first - STEEP : first].min() < 0.5
    after = filled[last + 1 : last + 1 + STEEP].min() < 0.5
    if before and after and last - first < RULE_WIDTH * len(mask):
        return np.asarray(mask & (np.arange(len(mask))[:, None] > last + 2))
    return mask


CUT_OFF, TOUCHED = 0.5, 0.2  # of a part's largest width: surely a neighbour's, and so if another one surely is
DEEPEST, DEEPEST_AT_SIDES = 0.22, 0.1  # of the side: at the left and right are parts of characters, as of 明, too
LARGEST = 0.25  # of the ink


def _without_neighbours(mask: Mask, deepest: float) -> Mask:
    """Without parts that the upper or lower edge cuts off.

    One that is cut is at the edge about as wide as anywhere, where a character's own end is round. Beside one there may
    be others that are less so, or that do not reach the edge.
    """
    parts, facts = _parts(mask)
    small = (facts[:, cv2.CC_STAT_HEIGHT] < deepest * len(mask)) & (facts[:, cv2.CC_STAT_AREA] < LARGEST * mask.sum())
    above = facts[:, cv2.CC_STAT_TOP] + facts[:, cv2.CC_STAT_HEIGHT]  # where each part ends, from the upper edge
    below = len(mask) - facts[:, cv2.CC_STAT_TOP]
    edges = [(_widths_at_edge(parts, small), above), (_widths_at_edge(parts[::-1], small), below)]
    if max(widths.max() for widths, _ in edges) < CUT_OFF:
        return mask
    depths = [(end, (end * (widths >= TOUCHED)).max()) for widths, end in edges]
    return np.asarray(mask & ~np.any([end <= depth for end, depth in depths], axis=0)[parts])


def _widths_at_edge(parts: NDArray[np.int32], asked: Mask) -> NDArray[np.float64]:
    """For each of the parts asked for [n] that touch the upper edge: its width there, in parts of its largest one."""
    found = np.zeros(len(asked))
    for part in set(np.unique(parts[0])) & set(np.flatnonzero(asked)) - {0}:
        widths = (parts == part).sum(axis=1)
        found[part] = widths[:2].min() / widths.max()
    return found


def _parts(mask: Mask) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Connected parts [H, W], numbered from 1, and the facts about each [n, 5]."""
    _, parts, facts, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return np.asarray(parts, np.int32), np.asarray(facts, np.int32)


SPECK = 0.003  # of the ink


def without_specks(mask: Mask) -> Mask:
    """Without parts that have next to no ink."""
    parts, facts = _parts(mask)
    large = facts[:, cv2.CC_STAT_AREA] >= SPECK * mask.sum()
    large[0] = False
    return np.asarray(large[parts])


# ----------------------------------------------------------------------------------------------------------------------
# The layout


USUAL = 0.87  # width of the data's characters by their height: the median
HALFWAY = 0.5  # between a narrower character's proportions and the usual ones, by their logarithms


def lay_out(ink: Density) -> Gray:
    """Crop a density to the ink and scale it as the data's images are: 64 pixels in the longer side, in the middle.

    Proportions are kept, but narrow characters are widened a little. Of 1,200 validation images the model then reads
    95.5 % instead of 95.4, and of the same squeezed to half their width, as in some scans, 91.4 % instead of 83.3.
    """
    x, y, width, height = cv2.boundingRect(without_specks(ink > 0.5).astype(np.uint8))
    result = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    if not width:
        return result
    wide = max(width, width * (USUAL * height / width) ** HALFWAY)
    scale = IMAGE_SIZE / max(wide, height)
    size = (max(1, round(wide * scale)), max(1, round(height * scale)))
    cropped = ink[y : y + height, x : x + width]
    scaled = cv2.resize(cropped, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    left, top = (IMAGE_SIZE - size[0]) // 2, (IMAGE_SIZE - size[1]) // 2
    result[top : top + size[1], left : left + size[0]] = np.clip(np.rint(scaled * 255), 0, 255)
    return result
