"""Characters predicted from image files."""
