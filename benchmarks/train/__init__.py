"""How fast a training runs, and which stage limits it."""
