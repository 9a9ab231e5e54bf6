"""`python -m benchmarks`: measure, show, and on request keep."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lmmodules.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from benchmarks.workload import Chosen

ROUNDS = 7
LEAST_ROUNDS = 5
QUICK_ROUNDS = 3
TURN_SECONDS = 0.7
FILE_WIDTH = 120
AXES = {"vocab": int, "dropout": float, "length": int, "batch": int, "megabytes": int}
"""Axes of the workloads that the command line can set, and what their values are."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; a wrong input is one sentence on standard error and exit code 2."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except InputError as error:
        print(f"python -m benchmarks: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Ours and its peers in alternation, in one run: ratios with their spread, next to the goal.",
    )
    parser.add_argument("workload", nargs="*", help="what to measure; nothing means all of it")
    parser.add_argument("--list", action="store_true", help="tell what there is")
    parser.add_argument("--rounds", type=int, default=None, help=f"turns of every candidate (default {ROUNDS})")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads (default: one per core)")
    parser.add_argument(
        "--idle",
        choices=("awake", "asleep"),
        default="awake",
        help="how idle threads wait: awake, as PyTorch has it, or asleep, which disturbs and is disturbed less where "
        "the machine has other work",
    )
    parser.add_argument("--memory", action="store_true", help="also what three steps add to a fresh process")
    parser.add_argument("--quick", action="store_true", help=f"the first case of each, {QUICK_ROUNDS} rounds")
    parser.add_argument("--store", action="store_true", help="keep the results, and make docs/speed.md from them")
    parser.add_argument("--render", action="store_true", help="only make docs/speed.md from what is stored")
    for axis, kind in AXES.items():
        parser.add_argument(f"--{axis}", type=kind, nargs="+", default=None, help=f"instead of the usual {axis}")
    return parser


def _run(options: argparse.Namespace) -> None:
    # How many threads there are and how they wait has to be known before torch is imported.
    os.environ["OMP_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = str(options.threads)
    os.environ.pop("OMP_WAIT_POLICY", None)
    if options.idle == "asleep":
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler tells when it starts
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

    from rich.console import Console

    from benchmarks.workload import choose, summaries

    console = Console()
    if not console.is_terminal:
        console = Console(width=FILE_WIDTH)
    if options.list:
        for name, summary in summaries().items():
            console.print(f"[bold cyan]{name}[/bold cyan]  {summary}")
        return
    if options.render:
        _render(console)
        return
    rounds = _rounds(options)
    changes = {axis: values for axis in AXES if (values := getattr(options, axis)) is not None}
    for chosen in [choose(name, changes) for name in options.workload or summaries()]:
        _measure(chosen, rounds, options, console)


def _rounds(options: argparse.Namespace) -> int:
    if options.quick and options.store:
        raise InputError("`--quick` is only to see that it works, but was given with `--store`; leave one of them out")
    if options.threads < 1:
        raise InputError(f"`--threads` must be at least 1, but is {options.threads}")
    rounds: int = options.rounds if options.rounds is not None else QUICK_ROUNDS if options.quick else ROUNDS
    least = 1 if options.quick else LEAST_ROUNDS
    if rounds < least:
        raise InputError(
            f"`--rounds` must be at least {least}, for a spread that means something, but is {rounds}; use "
            f"`--rounds {ROUNDS}`, or `--quick`"
        )
    return rounds


def _measure(chosen: Chosen, rounds: int, options: argparse.Namespace, console: Console) -> None:
    import torch
    from rich.console import Console

    from benchmarks.measurement import measure
    from benchmarks.results import WorkloadResult, store
    from benchmarks.tables import show_case

    torch.set_num_threads(options.threads)
    cases = chosen.cases()
    with Console(stderr=True).status("") as status:
        for case in cases[:1] if options.quick else cases:

            def say(text: str, name: str = case.name) -> None:
                status.update(f"{chosen.name}, {name}: {text}")

            seconds = TURN_SECONDS / 4 if options.quick else TURN_SECONDS
            found = measure(chosen, case, rounds=rounds, turn_seconds=seconds, memory=options.memory, say=say)
            show_case(chosen.workload.title, found, console)
            measured = any(candidate.wall for candidate in found.candidates)
            if options.store and measured:  # after every case, so that what was measured stays if the next one fails
                store(WorkloadResult(chosen.name, chosen.workload.title, [found]))
    if options.store:
        _render(console)


def _render(console: Console) -> None:
    from benchmarks.speed_page import PAGE, store_page

    store_page()
    console.print(f"{PAGE.parent.name}/{PAGE.name} has {len(PAGE.read_text().splitlines())} lines")


if __name__ == "__main__":
    main()
