"""One file per workload: what is measured, against whom, and the goal."""
