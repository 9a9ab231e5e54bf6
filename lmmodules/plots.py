"""Pictures. matplotlib is an extra (`plots`) and is imported only when one is drawn."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmmodules.errors import require

INK, MUTED, GRID = "#1f2328", "#656d76", "#d8dee4"
BLUE, ORANGE, GREEN = "#0969da", "#bc4c00", "#1a7f37"


def plot_run(
    rows: Sequence[Mapping[str, float]], path: str | os.PathLike[str], *, baseline: tuple[str, float] | None = None
) -> Path:
    """Draw loss and learning rate over optimizer steps.

    Args:
        rows: Rows of a `metrics.csv`, as `read_metrics` gives them.
        path: The picture, PNG or whatever its suffix says.
        baseline: What a loss is to be compared with, and its value in nats per target, for example
            `("without context", 6.46)`.

    Returns:
        The path.

    Raises:
        InputError: When matplotlib is not installed.
    """
    figure, (upper, lower) = _figure(2, heights=(3, 1))
    for name, label, colour in (("train/loss", "training", BLUE), ("val/loss", "validation", ORANGE)):
        points = [(row["step"], row[name]) for row in rows if name in row]
        if points:
            steps, losses = zip(*points, strict=True)
            marker = {"marker": "o", "markersize": 4} if name == "val/loss" or len(points) == 1 else {}
            upper.plot(steps, losses, color=colour, linewidth=1.6, **marker)
            upper.annotate(
                f" {label} {losses[-1]:.3f}",
                (steps[-1], losses[-1]),
                color=colour,
                va="bottom" if name == "train/loss" else "top",
                fontsize=9,
            )
    if baseline is not None:
        upper.axhline(baseline[1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        upper.annotate(
            f"{baseline[0]} {baseline[1]:.3f}",
            (1, baseline[1]),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            color=MUTED,
            fontsize=9,
        )
    upper.set_ylabel("loss (nats per target)")
    points = [(row["step"], row["lr"]) for row in rows if "lr" in row]
    if points:
        lower.plot(*zip(*points, strict=True), color=GREEN, linewidth=1.6)
    lower.set_ylabel("learning rate")
    lower.set_xlabel("optimizer steps")
    return _save(figure, path)


def plot_learning_rate(
    rates: Sequence[float], path: str | os.PathLike[str], *, title: str, steps: Sequence[int] | None = None
) -> Path:
    """Draw a learning-rate curve.

    Args:
        rates: Learning rate of each step.
        path: The picture.
        title: What it shows.
        steps: Step of each rate; `None` counts from 0.

    Returns:
        The path.

    Raises:
        InputError: When matplotlib is not installed.
    """
    figure, (axes,) = _figure(1, heights=(1,))
    axes.plot(steps if steps is not None else range(len(rates)), rates, color=GREEN, linewidth=1.8)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("learning rate")
    axes.set_xlabel("optimizer steps")
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    return _save(figure, path)


def _figure(rows: int, heights: Sequence[float]) -> tuple[Any, Sequence[Any]]:
    # The object-oriented interface draws without a display and leaves a notebook's own settings alone.
    figure_module = require("matplotlib.figure", "plots", "drawing a picture")
    figure = figure_module.Figure(figsize=(8, 3 + 2 * (rows - 1)), dpi=130, layout="constrained")
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False, height_ratios=list(heights))[:, 0]
    for axis in axes:
        axis.grid(color=GRID, linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(GRID)
        axis.tick_params(colors=MUTED, labelsize=8.5)
        axis.yaxis.label.set_color(MUTED)
        axis.xaxis.label.set_color(MUTED)
        axis.margins(x=0.02)
    return figure, axes


def _save(figure: Any, path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path
