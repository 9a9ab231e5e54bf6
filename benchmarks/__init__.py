"""Paired measurements: ours and something else, in alternation, in one run; see `python -m benchmarks --help`."""
