"""Benchmarks: both sides timed in one run."""
