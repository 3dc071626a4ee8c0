"""Benchmarks: commands that measure and write JSON with their environment; tables are made from the JSON."""
