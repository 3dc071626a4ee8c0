"""Which sample comes when: orders as pure functions of seed, epoch and position."""
