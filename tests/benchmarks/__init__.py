"""Benchmarks: the real supervisor beside floors measured in the same run. ``tests/benchmarks/run --help``."""
