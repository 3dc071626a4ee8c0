"""How well a model tells characters that it knows from everything else."""
