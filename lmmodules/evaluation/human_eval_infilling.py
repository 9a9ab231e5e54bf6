"""HumanEval's infilling tasks: a gap in a program, filled, and the program run against its tests."""

from __future__ import annotations

import gzip
import json
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lmmodules.errors import InputError, check_whole_number, check_whole_numbers
from lmmodules.evaluation.infill import Middle
from lmmodules.evaluation.pass_at_k import pass_at_k
from lmmodules.evaluation.sandbox import Sandbox

FILES = {
    "single_line": "HumanEval-SingleLineInfilling.jsonl.gz",
    "multi_line": "HumanEval-MultiLineInfilling.jsonl.gz",
    "random_span": "HumanEval-RandomSpanInfilling.jsonl.gz",
    "random_span_light": "HumanEval-RandomSpanInfillingLight.jsonl.gz",
}

Fill = Callable[[Sequence[tuple[str, str]]], "Sequence[Middle | None]"]
"""Writes the middles of (prefix, suffix) pairs; `None` where the suffix is longer than the context."""


@dataclass(frozen=True)
class InfillingTask:
    """A program with a gap.

    Attributes:
        name: For example `SingleLineInfilling/HumanEval/0/L0`.
        prefix: The program before the gap.
        middle: What was taken out.
        suffix: The program behind it.
        test: Defines `check`, which takes the function and asserts what it must do.
        entry_point: Name of the function.
    """

    name: str
    prefix: str
    middle: str
    suffix: str
    test: str
    entry_point: str

    def program(self, middle: str, password: str) -> str:
        """The program that prints a password if, and after, all tests have passed.

        Args:
            middle: What to put in the gap.
            password: What the program could not know before; ending early with exit code 0 is not enough.
        """
        body = f"{self.prefix}{middle}{self.suffix}\n{self.test}\ncheck({self.entry_point})\n"
        return f"{body}print({password!r})\n"


def read_tasks(path: str | os.PathLike[str], kind: str) -> list[InfillingTask]:
    """Read the tasks of one kind.

    Args:
        path: Directory with the files of the benchmark as they are published.
        kind: One of `FILES`.

    Raises:
        InputError: When the kind is unknown, or its file is not there or not readable.

    Source:
        Bavarian et al. 2022, section 2.2; data and format are those of openai/human-eval-infilling.
    """
    _check_kind(kind)
    file = Path(path).expanduser() / FILES[kind]
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines if line.strip()]
        return [
            InfillingTask(
                row["task_id"], row["prompt"], row["canonical_solution"], row["suffix"], row["test"], row["entry_point"]
            )
            for row in rows
        ]
    except FileNotFoundError as error:
        raise InputError(
            f"`path` must be a directory with the files of openai/human-eval-infilling, but `{file}` does not exist; "
            "use `evaluation.human_eval.path=null` to leave the benchmark out"
        ) from error
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"`{file}` cannot be read as tasks of HumanEval infilling: {error}") from error


def _check_kind(kind: str) -> None:
    if kind not in FILES:
        raise InputError(f"`tasks` must be among {', '.join(FILES)}, but has {kind!r}")


class HumanEvalInfilling:
    """Share of HumanEval's gaps that are filled so that the program passes its tests.

    Args:
        path: Directory with the files of the benchmark; `None` leaves it out.
        tasks: Kinds of gaps, of `FILES`.
        num_samples: Attempts at each task.
        k: Attempts allowed in each reported pass@k.
        max_tasks: Take only the first so many of each kind; `None` for all.
        run_programs: Must be set to run what a model wrote; see `lmmodules.evaluation.sandbox`.
        timeout_seconds: Wall time that a program may take.

    Raises:
        InputError: When a number or a kind is none, a k exceeds the samples, or programs are not allowed to run.

    Source:
        Bavarian et al. 2022, section 2.2, with 100 samples per task, of random spans 200; the tests and the limit of
        three seconds are those of openai/human-eval-infilling.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        tasks: Sequence[str] = ("single_line", "random_span"),
        num_samples: int = 1,
        k: Sequence[int] = (1,),
        max_tasks: int | None = None,
        run_programs: bool = False,
        timeout_seconds: float = 3.0,
    ) -> None:
        check_whole_number("num_samples", num_samples, least=1)
        if max_tasks is not None:
            check_whole_number("max_tasks", max_tasks, least=1, remedy="evaluation.human_eval.max_tasks=null")
        check_whole_numbers("k", k, least=1, remedy="evaluation.human_eval.k=[1]")
        if max(k) > num_samples:
            raise InputError(
                f"`k` must lie between 1 and `num_samples` ({num_samples}), but is {list(k)}; "
                f"use `evaluation.human_eval.num_samples={max([*k, 1])}`"
            )
        if path is not None and not run_programs:
            raise InputError(
                "HumanEval runs programs that the model wrote, isolated where the system can (see "
                "docs/papers/program_synthesis.md): allow it by `evaluation.human_eval.run_programs=true`, or use "
                "`evaluation.human_eval.path=null`"
            )
        self.path = path
        self.tasks = (tasks,) if isinstance(tasks, str) else tuple(tasks)
        for kind in self.tasks:
            _check_kind(kind)
        self.num_samples = num_samples
        self.k = tuple(k)
        self.max_tasks = max_tasks
        self.sandbox = Sandbox(timeout_seconds)

    def __call__(self, fill: Fill) -> dict[str, float | int]:
        """Attempt every task, run every attempt.

        Args:
            fill: Writes the middles of gaps.

        Returns:
            `human_eval/<kind>/pass@<k>` and `human_eval/<kind>/tasks`, and where there are some, `too_long`: tasks
            whose suffix is longer than the context, which count as failed. Nothing without a path.
        """
        if self.path is None:
            return {}
        figures: dict[str, float | int] = {}
        for kind in self.tasks:
            tasks = read_tasks(self.path, kind)[: self.max_tasks]
            gaps = [(task.prefix, task.suffix) for task in tasks for _ in range(self.num_samples)]
            middles = fill(gaps)
            attempts = [task for task in tasks for _ in range(self.num_samples)]
            written = [(task, middle) for task, middle in zip(attempts, middles, strict=True) if middle is not None]
            verdicts = iter(self.check([task for task, _ in written], [middle.text for _, middle in written]))
            passed = [middle is not None and next(verdicts) for middle in middles]
            correct = [
                sum(passed[start : start + self.num_samples]) for start in range(0, len(passed), self.num_samples)
            ]
            figures |= {f"human_eval/{kind}/pass@{k}": pass_at_k(self.num_samples, correct, k) for k in self.k}
            figures[f"human_eval/{kind}/tasks"] = len(tasks)
            if len(written) < len(attempts):
                figures[f"human_eval/{kind}/too_long"] = (len(attempts) - len(written)) // self.num_samples
        return figures

    def check(self, tasks: Sequence[InfillingTask], middles: Sequence[str]) -> list[bool]:
        """Whether each task passes its tests with the middle put in.

        Args:
            tasks: Programs with gaps.
            middles: What to put into them.
        """
        passwords = [secrets.token_hex(16) for _ in tasks]
        programs = [
            task.program(middle, password) for task, middle, password in zip(tasks, middles, passwords, strict=True)
        ]
        return [
            run.status == "finished" and run.output.endswith(f"{password}\n")
            for run, password in zip(self.sandbox.run_all(programs), passwords, strict=True)
        ]
