"""Benchmarks with what is asked beside what was measured: `make bench-NAME` runs NAME.py, results are in `results/`.

A row that falls short is said loudly and kept; it is no error of the run.
"""
