"""The command `kkanji`, and the programs that `accelerate launch` and torchrun start."""
