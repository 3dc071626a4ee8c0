"""One command a file; a command never imports a command."""
