"""The examination of a GPU: what it can do, what the project gets out of it, and whether that is enough."""
