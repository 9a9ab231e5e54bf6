"""Runs side by side: what each was told, what came of it, and in which order."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import OmegaConf

from lmmodules.callbacks import read_metrics
from lmmodules.errors import InputError

SUMMARY, OVERRIDES, METRICS, ERROR = "summary.json", "overrides.yaml", "metrics.csv", "error.txt"

PLACES = ("paths.", "hydra.", "hydra/")
"""Overrides that say where and how a run is made, and not what it is."""

Curve = list[tuple[float, float]]


@dataclass
class ComparedRun:
    """A run as it lies in its directory.

    Args:
        name: Of its directory, within the one that is compared.
        overrides: What it was told, by key.
        summary: What it came to; empty before its end.
        error: Last line of what ended it, if it failed.
        curve: Steps and validation losses.
        step: The last one that it logged.
    """

    name: str
    overrides: Mapping[str, str]
    summary: Mapping[str, float]
    error: str | None = None
    curve: Curve = field(default_factory=list)
    step: int = 0

    @classmethod
    def read(cls, directory: Path, name: str) -> ComparedRun:
        """Read a run from its directory."""
        rows = read_metrics(directory / METRICS)
        error = directory / ERROR
        lines = error.read_text().strip().splitlines() if error.is_file() else []
        summary = directory / SUMMARY
        return cls(
            name=name,
            overrides=read_overrides(directory / OVERRIDES),
            summary=json.loads(summary.read_text()) if summary.is_file() and not lines else {},
            error=lines[-1] if lines else None,
            curve=[(row["step"], row["val/loss"]) for row in rows if "val/loss" in row],
            step=int(rows[-1]["step"]) if rows else 0,
        )

    @property
    def state(self) -> str:
        """`done`, `failed: ...` or how far an unfinished run has come."""
        if self.error is not None:
            return f"failed: {self.error}"
        return "done" if self.summary else f"not finished, step {self.step}"

    def value(self, metric: str) -> float:
        """A number of the summary; infinite where there is none, so that the run comes last."""
        value = self.summary.get(metric)
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.inf


@dataclass
class Comparison:
    """Runs, best first.

    Args:
        runs: In the order of `metric`, the least first, then those without one.
        metric: Key of `summary.json`.
    """

    runs: Sequence[ComparedRun]
    metric: str

    @property
    def varied(self) -> list[str]:
        """Keys of the overrides in which the runs differ."""
        keys = dict.fromkeys(key for run in self.runs for key in run.overrides)
        return [key for key in keys if len({run.overrides.get(key) for run in self.runs}) > 1]

    def header(self) -> list[str]:
        """Of the table."""
        return ["run", *self.varied, self.metric, "steps", "seconds", "state"]

    def rows(self) -> list[list[str]]:
        """Of the table, best first."""
        return [
            [
                run.name,
                *(run.overrides.get(key, "") for key in self.varied),
                f"{run.value(self.metric):.4f}" if math.isfinite(run.value(self.metric)) else "",
                str(run.summary.get("steps", run.step)),
                f"{run.summary['seconds']:.0f}" if run.summary.get("seconds") is not None else "",
                run.state,
            ]
            for run in self.runs
        ]

    def markdown(self) -> str:
        """The table as a page."""
        cells = [[cell.replace("|", "\\|") for cell in row] for row in (self.header(), *self.rows())]
        lines = ["| " + " | ".join(row) + " |" for row in cells]
        lines.insert(1, "|" + " --- |" * len(cells[0]))
        return "\n".join(["# Runs, best first", "", *lines, "", "![validation loss](comparison.png)", ""])

    def comma_separated(self) -> str:
        """The table for other programs."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.header(), *self.rows()])
        return text.getvalue()

    def arms(self, most: int = 10) -> dict[str, list[ComparedRun]]:
        """The best settings, those that differ in nothing but the seed together.

        Args:
            most: Settings at most.
        """
        arms: dict[str, list[ComparedRun]] = {}
        settings = [key for key in self.varied if key != "seed"]
        for run in self.runs:
            label = ", ".join(f"{key.rpartition('.')[2]}={run.overrides.get(key, '')}" for key in settings)
            if run.curve:
                arms.setdefault(label or run.name, []).append(run)
        return dict(list(arms.items())[:most])


def compare_runs(directory: Path, metric: str = "val_loss") -> Comparison:
    """Find the runs in a directory and below, and put them in order.

    Args:
        directory: Of a sweep, of several runs or of one.
        metric: Key of `summary.json`, less is better.

    Raises:
        InputError: When there is no run, or none has the metric although some are done.
    """
    if not directory.is_dir():
        raise InputError(
            f"`directory` must be a directory with runs, but `{directory}` is none; use `directory=sweeps`"
        )
    found = sorted({path.parent for name in (OVERRIDES, ERROR) for path in directory.rglob(name)}, key=_in_order)
    runs = [ComparedRun.read(path, str(path.relative_to(directory))) for path in found]
    if not runs:
        raise InputError(f"`directory` must hold runs of `lmm-train`, but there is none in or below `{directory}`")
    done = [run for run in runs if run.summary]
    if done and all(run.summary.get(metric) is None for run in done):
        known = ", ".join(sorted({key for run in done for key, value in run.summary.items() if _is_number(value)}))
        raise InputError(f"`metric` must be a number of `summary.json`, but is `{metric}`; there are {known}")
    return Comparison(sorted(runs, key=lambda run: run.value(metric)), metric)


def read_overrides(path: Path) -> dict[str, str]:
    """What was typed for a run, by key, but for where it was to be written.

    Args:
        path: An `overrides.yaml`: a list of `key=value`; a run that failed early may have none.
    """
    if not path.is_file():
        return {}
    pairs = (str(override).lstrip("+~").partition("=") for override in OmegaConf.load(path))
    return {key: value for key, _, value in pairs if not key.startswith(PLACES)}


def _in_order(path: Path) -> list[tuple[int, int, str]]:
    """Trial 2 before trial 10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in path.parts]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
