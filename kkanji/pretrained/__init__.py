"""Weights that come with the package. Each folder is a link to one in models/, and a copy of it in a wheel."""

from pathlib import Path

KUZUSHIJI_KANJI = Path(__file__).parent / "kuzushiji-kanji"
"""The model for use: all 3,832 characters of Kuzushiji-Kanji, trained on all images at hand."""
