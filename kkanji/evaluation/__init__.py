"""Predictions of a split and what is computed from them."""
