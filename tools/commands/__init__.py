"""The commands, one per file. No command imports another."""
