"""From published archives to originals: formats, duplicates, splits, downloads."""
