"""Files and folders that appear whole or not at all, who holds them, and who made them."""
