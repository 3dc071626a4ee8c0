"""Accuracy and time of this project's trainer beside the legacy project's."""
