"""Benchmarks: run by hand, never by pytest. Ratios against a peer or a limit of the same run."""
