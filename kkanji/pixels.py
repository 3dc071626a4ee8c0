"""Gray levels as networks see them, measured on all 140,424 images of Kuzushiji-Kanji."""

MEAN = 0.2190 * 255
"""Gray levels."""
STD = 0.3796 * 255
"""Gray levels."""
