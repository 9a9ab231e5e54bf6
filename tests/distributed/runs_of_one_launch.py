"""Trains several small runs, one after the other, on the processes it is started with.

Started by `test_resume.py`: `torchrun --nproc_per_node N runs_of_one_launch.py RUNS.json`. The file maps the directory
of each run to its overrides.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch.distributed as dist

from lmmodules import compose


def main() -> None:
    runs: dict[str, list[str]] = json.loads(Path(sys.argv[1]).read_text())
    for directory, overrides in runs.items():
        run = compose(*overrides, directory=directory)
        run.fit()
        run.trainer.strategy.barrier()
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
