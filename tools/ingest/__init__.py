"""From published archives to originals: downloads, formats, duplicates, splits."""
