"""The networks beside each other: size, work, memory, speed."""
