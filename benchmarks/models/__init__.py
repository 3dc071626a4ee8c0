"""Compare the networks: size, work, memory, speed."""
