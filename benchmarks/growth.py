"""How the cost of ours grows with what it is given: `python -m benchmarks.growth`.

A study follows one size of a run while the others stay. Every point is measured in a process of its own, rounds go
through all points before they begin again, and what is kept is the median over the rounds. Beside each point stands
the exponent since the point before: time (or memory) grows with the size to that power.

    python -m benchmarks.growth [STUDY ...] [--rounds N] [--threads N] [--store]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lmmodules.errors import InputError

RESULTS = Path(__file__).parent / "results" / "growth"
ROUNDS = 3
WARM_STEPS, TIMED_STEPS = 1, 3


@dataclass(frozen=True)
class Study:
    """A size that grows, and the points at which it is looked at.

    Attributes:
        title: Heading of its table.
        axis: What grows, as the first column is called.
        values: Its values.
        fixed: What stays, in words.
        measure: From a value to a `Point`, in a process of its own.
        unit: Of what a step works through, for the rate.
    """

    title: str
    axis: str
    values: tuple[int, ...]
    fixed: str
    measure: Callable[[int], Point]
    unit: str = "tokens"


@dataclass(frozen=True)
class Point:
    """What one process measured.

    Attributes:
        value: Of the axis.
        seconds: Of a step, or of the whole preparation; the median of several.
        memory_mb: What the work added to the process at its peak; 0 where it fitted into what the process had.
        units: How many units the time was for.
        operations: Floating-point operations of a step, where they were counted.
    """

    value: int
    seconds: float
    memory_mb: float
    units: float
    operations: int | None = None


@dataclass(frozen=True)
class Growth:
    """A study, measured.

    Attributes:
        study: Its name.
        points: In the order of the axis.
        environment: Machine, versions, threads, date.
    """

    study: str
    points: Sequence[Point]
    environment: Mapping[str, Any]

    def exponents(self, quantity: str) -> list[float | None]:
        """The power with which a quantity grew since the point before; `None` at the first and where one was nothing.

        Args:
            quantity: `seconds` or `memory_mb`.
        """
        found: list[float | None] = [None]
        for before, after in zip(self.points, self.points[1:], strict=False):
            first, last = getattr(before, quantity), getattr(after, quantity)
            found.append(math.log(last / first, after.value / before.value) if first > 0 and last > 0 else None)
        return found

    def write(self, folder: Path = RESULTS) -> Path:
        """Keep it as JSON.

        Args:
            folder: Where.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.study}.json"
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")
        return path

    @classmethod
    def read(cls, path: Path) -> Growth:
        """What `write` wrote."""
        content = json.loads(path.read_text())
        return cls(content["study"], [Point(**point) for point in content["points"]], content["environment"])


def _training_point(
    value: int, *, vocab_size: int = 8192, length: int = 256, tokens: int = 2048, layers: int = 4, documents: int = 0
) -> Point:
    """Steps of a causal LM as the trainer makes them, on random tokens."""
    import time

    import torch

    from benchmarks.operations import count_operations
    from benchmarks.processes import added_memory
    from benchmarks.training import SMALL, fused_adamw, random_decoder
    from lmmodules import CausalLM

    backbone = random_decoder(vocab_size, replace(SMALL, num_layers=layers), max_length=length)
    objective = CausalLM(backbone, optimizer=fused_adamw).train()
    optimizer = objective.configure_optimizers()
    shape = (tokens // length, length)
    batch = {"input_ids": torch.randint(4, vocab_size, shape), "labels": torch.randint(4, vocab_size, shape)}
    if documents:
        batch["document_ids"] = (torch.arange(length) * documents // length).expand(shape).contiguous()

    def step() -> None:
        loss = objective.training_step(batch, 0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    memory = added_memory(step)  # its steps warm up
    seconds = []
    for _ in range(TIMED_STEPS):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return Point(value, sorted(seconds)[TIMED_STEPS // 2], memory, tokens, count_operations(step))


def _corpus_point(megabytes: int) -> Point:
    """A corpus file to a token store."""
    import tempfile
    import time

    from benchmarks.processes import resident_peak_added
    from benchmarks.workloads.tokenising import Tokenising
    from lmmodules.data import TextFiles
    from lmmodules.data.tokenization import write_stores

    workload = Tokenising()
    tokenizer, path = workload.tokenizer(), workload.file(megabytes)
    with tempfile.TemporaryDirectory() as directory, resident_peak_added() as added:
        start = time.perf_counter()
        write_stores(Path(directory) / "stores", TextFiles(path), tokenizer)
        seconds = time.perf_counter() - start
    return Point(megabytes, seconds, added.megabytes, megabytes)


STUDIES: dict[str, Study] = {
    "length": Study(
        "Sequence length",
        "tokens of a sequence",
        (128, 256, 512, 1024, 2048, 4096, 8192),
        "8,192 tokens a step, vocabulary 8,192, 4 layers of 256",
        lambda value: _training_point(value, length=value, tokens=8192),
    ),
    "vocabulary": Study(
        "Vocabulary",
        "tokens known",
        (8192, 16384, 32768, 65536, 131072),
        "8 sequences of 256 tokens, 4 layers of 256",
        lambda value: _training_point(value, vocab_size=value),
    ),
    "depth": Study(
        "Depth",
        "layers",
        (2, 4, 8, 16, 32),
        "8 sequences of 256 tokens, width 256, vocabulary 8,192",
        lambda value: _training_point(value, layers=value),
    ),
    "documents": Study(
        "Documents packed into a block",
        "documents of a block",
        (1, 2, 4, 8, 16, 32),
        "4 blocks of 1,024 tokens, each document seeing itself alone, 4 layers of 256, vocabulary 8,192",
        lambda value: _training_point(value, length=1024, tokens=4096, documents=value),
    ),
    "corpus": Study(
        "Preparing a corpus",
        "megabytes of text",
        (1, 4, 16, 64, 256, 1024),
        "the standard library over and over, as JSON lines, byte-level BPE of 8,192 tokens",
        _corpus_point,
        unit="MB",
    ),
}


def measure(name: str, rounds: int, threads: int, say: Callable[[str], None] = lambda text: None) -> Growth:
    """Go through the points of a study.

    Args:
        name: Of the study.
        rounds: How often.
        threads: Threads of every process.
        say: Told what is being done.
    """
    study = STUDIES[name]
    found: dict[int, list[Point]] = {value: [] for value in study.values}
    environment: Mapping[str, Any] = {}
    for number in range(rounds):
        for value in study.values:
            say(f"{name}: {study.axis} {value:,}, round {number + 1} of {rounds}")
            point, environment = _in_own_process(name, value, threads)
            found[value].append(point)
    return Growth(name, [_middle(points) for points in found.values()], environment)


def _middle(points: Sequence[Point]) -> Point:
    return sorted(points, key=lambda point: point.seconds)[len(points) // 2]


def _in_own_process(name: str, value: int, threads: int) -> tuple[Point, Mapping[str, Any]]:
    variables = {"OMP_NUM_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    told = subprocess.run(
        [sys.executable, "-m", "benchmarks.growth", "--point", name, str(value)],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    answer = json.loads(told.stdout.splitlines()[-1])
    return Point(**answer["point"]), answer["environment"]


def table(growth: Growth) -> list[list[str]]:
    """Rows of a table, the first being its head.

    Args:
        growth: Measured.
    """
    study = STUDIES[growth.study]
    rows = [[study.axis, "time", "grows as", f"{study.unit}/s", "memory", "grows as"]]
    if growth.points[0].operations is not None:
        rows[0].append("GFLOP/s")
    exponents = zip(growth.exponents("seconds"), growth.exponents("memory_mb"), strict=True)
    for point, (time, memory) in zip(growth.points, exponents, strict=True):
        rate = point.units / point.seconds
        row = [
            f"{point.value:,}",
            f"{point.seconds * 1000:,.0f} ms" if point.seconds < 10 else f"{point.seconds:,.0f} s",
            "" if time is None else f"x^{time:.2f}",
            f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}",
            f"{point.memory_mb:,.0f} MB",
            "" if memory is None else f"x^{memory:.2f}",
        ]
        if point.operations is not None:
            row.append(f"{point.operations / point.seconds / 1e9:,.0f}")
        rows.append(row)
    return rows


def load_all(folder: Path = RESULTS) -> list[Growth]:
    """All stored studies, in the order of `STUDIES`."""
    return [Growth.read(folder / f"{name}.json") for name in STUDIES if (folder / f"{name}.json").exists()]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; a wrong input is one sentence on standard error and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("study", nargs="*", help=f"of {', '.join(STUDIES)}; nothing means all")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"how often every point (default {ROUNDS})")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads (default: one per core)")
    parser.add_argument("--largest", type=int, default=None, help="leave out points above this value")
    parser.add_argument("--store", action="store_true", help="keep the results, and draw docs/speed.md again")
    parser.add_argument("--point", nargs=2, metavar=("STUDY", "VALUE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        if options.point:
            _answer(options.point[0], int(options.point[1]))
        else:
            _run(options)
    except InputError as error:
        print(f"python -m benchmarks.growth: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _answer(name: str, value: int) -> None:
    from benchmarks.results import environment

    point = STUDIES[name].measure(value)
    print(json.dumps({"point": asdict(point), "environment": environment()}))


def _run(options: argparse.Namespace) -> None:
    from rich.console import Console

    from benchmarks.growth_picture import draw
    from benchmarks.speed_page import store_page
    from benchmarks.tables import show_growth

    if options.rounds < 1:
        raise InputError(f"`--rounds` must be at least 1, but is {options.rounds}; use `--rounds {ROUNDS}`")
    for name in options.study:
        if name not in STUDIES:
            raise InputError(f"`study` must be one of {', '.join(STUDIES)}, but is `{name}`")
    console = Console()
    for name in options.study or STUDIES:
        if options.largest is not None:
            values = tuple(value for value in STUDIES[name].values if value <= options.largest)
            if len(values) < 2:
                least = STUDIES[name].values[1]
                raise InputError(
                    f"`--largest` must leave at least two points of `{name}`, but is {options.largest}; use "
                    f"`--largest {least}` or more"
                )
            STUDIES[name] = replace(STUDIES[name], values=values)
        with Console(stderr=True).status("") as status:
            growth = measure(name, options.rounds, options.threads, status.update)
        show_growth(STUDIES[name].title, STUDIES[name].fixed, table(growth), console)
        if options.store:
            growth.write()
    if options.store:
        draw(load_all())
        store_page()


if __name__ == "__main__":
    main()
