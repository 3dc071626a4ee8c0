"""How well a model reads characters as people have them."""
