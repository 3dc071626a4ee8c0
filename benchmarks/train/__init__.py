"""How fast training runs, and which stage limits it."""
