"""What a set costs by its size."""
