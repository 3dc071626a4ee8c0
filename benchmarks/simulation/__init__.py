"""Many GPUs and nodes: a simulation, validated against small real pipelines."""
