"""Benchmarks: `make bench-NAME`. Each prints a table and writes `bench/results/NAME.json`."""
