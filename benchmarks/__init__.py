"""Paired measurements: ours and something else, in alternation, in one run."""
