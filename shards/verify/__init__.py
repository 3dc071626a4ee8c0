"""Every byte and label of a set, checked."""
