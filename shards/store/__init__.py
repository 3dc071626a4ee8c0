"""Objects in a folder or a bucket: credentials, retries, downloads, error messages."""
