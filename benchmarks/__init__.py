"""Benchmarks: commands that measure, and write JSON with the environment. Tables and charts are made from the JSON."""
