"""Benchmarks: each prints a table and writes JSON. `python -m bench.NAME --help` says what it measures."""
