"""A model's predictions for a split, and what is computed from them: measures, confusions, calibration."""
