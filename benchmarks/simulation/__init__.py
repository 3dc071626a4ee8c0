"""Beyond this machine: many GPUs and nodes, simulated and validated."""
