"""Benchmarks: how fast the program is, as ratios to others that do the same in the same run."""
