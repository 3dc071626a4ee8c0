"""Output on disk: files and folders that appear whole or not at all, their locks, and the command that made them."""
