"""A model as a page that reads characters in a browser: static files, no server, no network."""
