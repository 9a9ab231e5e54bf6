"""Pictures. matplotlib is an extra (`plots`) and is imported only when one is drawn."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmmodules.errors import require

INK, MUTED, GRID = "#1f2328", "#656d76", "#d8dee4"
BLUE, ORANGE, GREEN, PURPLE, PINK = "#0969da", "#bc4c00", "#1a7f37", "#8250df", "#bf3989"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, PINK, "#9a6700", "#1b7c83", "#57606a")
"""Of things that are told apart, in this order."""


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
        _draw_baseline(upper, baseline)
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


def plot_claim(
    curves: Mapping[str, Sequence[Sequence[tuple[float, float]]]],
    figures: Mapping[str, Sequence[float]],
    path: str | os.PathLike[str],
    *,
    unit: str,
    curve_label: str,
    baseline: tuple[str, float] | None = None,
) -> Path:
    """Draw what is compared: curves with their spread over seeds, and beside them the last figure of every seed.

    Args:
        curves: Of each arm, one per seed; a line is drawn through their mean and a band from the least to the greatest.
        figures: Of each arm, one per seed; those that are not finite are left out.
        path: The picture.
        unit: Of the figures and of the curves.
        curve_label: What stands below the curves.
        baseline: What the curves are to be compared with, and its value; drawn where it lies among them.

    Returns:
        The path.

    Raises:
        InputError: When matplotlib is not installed.
    """
    figure_module = require("matplotlib.figure", "plots", "drawing a picture")
    arms = dict.fromkeys([*figures, *curves])
    colours = _colours(arms)
    drawn = {arm: points for arm, seeds in curves.items() if (points := _spread([curve for curve in seeds if curve]))}
    height = max(4.2, 0.7 * len(figures))
    figure = figure_module.Figure(figsize=(9, height), dpi=130, layout="constrained")
    if not drawn:
        _draw_figures(figure.subplots(), figures, colours, label=f"{unit}, a dot per seed")
        return _save(figure, path)
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    _style(left)
    for arm, points in drawn.items():
        places, lowest, means, highest = zip(*points, strict=True)
        left.plot(places, means, color=colours[arm], linewidth=1.8, marker="o", markersize=3, label=arm)
        left.fill_between(places, lowest, highest, color=colours[arm], alpha=0.18, linewidth=0)
    if not set(drawn) <= set(figures):  # the colours of the others are told beside their dots
        left.legend(fontsize=8.5, frameon=False, labelcolor=INK)
    lowest_shown, highest_shown = left.get_ylim()
    if baseline is not None and lowest_shown <= baseline[1] <= highest_shown:
        ends = [points[-1][2] for points in drawn.values()]
        nearest = min(ends, key=lambda end: abs(end - baseline[1]))
        _draw_baseline(left, baseline, below=nearest > baseline[1])
    left.set_xlabel(curve_label)
    left.set_ylabel(unit)
    _draw_figures(right, figures, colours, label="at the end, a dot per seed")
    return _save(figure, path)


def _colours(arms: Iterable[str]) -> dict[str, str]:
    """A colour for each arm; `x at 128` and `x: accuracy` are figures of the arm `x` and have its colour."""
    arms = list(arms)
    owners = {arm: next((one for one in arms if arm.startswith((f"{one} at ", f"{one}: "))), arm) for arm in arms}
    colours = dict(zip(dict.fromkeys(owners.values()), itertools.cycle(COLOURS), strict=False))
    return {arm: colours[owner] for arm, owner in owners.items()}


def _draw_figures(axis: Any, figures: Mapping[str, Sequence[float]], colours: Mapping[str, str], *, label: str) -> None:
    """A row per arm: its name and mean, and below them a dot for every seed."""
    _style(axis)
    for row, (arm, values) in enumerate(figures.items()):
        finite = [value for value in values if math.isfinite(value)]
        mean = sum(finite) / len(finite) if finite else 0.0
        if finite:
            axis.plot(finite, [row] * len(finite), "o", color=colours[arm], markersize=6, alpha=0.55, markeredgewidth=0)
            axis.plot([mean, mean], [row - 0.1, row + 0.1], color=colours[arm], linewidth=2)
        axis.annotate(
            f"{arm}  {mean:.3f}" if len(finite) == len(values) else f"{arm}  diverged",
            (mean, row) if finite else (0.5, row),
            xycoords="data" if finite else ("axes fraction", "data"),
            xytext=(0, 13),
            textcoords="offset points",
            ha="center",
            color=colours[arm],
            fontsize=9,
        )
    axis.set_yticks([])
    axis.set_ylim(len(figures) - 0.4, -0.8)
    axis.margins(x=0.35)
    axis.locator_params(axis="x", nbins=5)
    axis.set_xlabel(label)
    axis.grid(axis="y", visible=False)
    axis.spines["left"].set_visible(False)


def plot_lengths(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    path: str | os.PathLike[str],
    *,
    train_length: int | None = None,
) -> Path:
    """Draw perplexity over the length of what a model is given to read, both on logarithmic axes.

    Args:
        curves: Lengths and perplexities, by name.
        path: The picture.
        train_length: Marked, where it is known.

    Returns:
        The path.

    Raises:
        InputError: When matplotlib is not installed.
    """
    figure, (axes,) = _figure(1, heights=(1,))
    ticker = require("matplotlib.ticker", "plots", "drawing a picture")
    for axis, name in ((axes.xaxis, "x"), (axes.yaxis, "y")):
        getattr(axes, f"set_{name}scale")("log", base=2 if name == "x" else 10)
        axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(ticker.NullFormatter())
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    for (name, points), colour in zip(curves.items(), itertools.cycle(COLOURS), strict=False):
        lengths, perplexities = zip(*points, strict=True)
        axes.plot(lengths, perplexities, color=colour, linewidth=1.8, marker="o", markersize=4, label=name)
    axes.set_xticks(sorted({length for points in curves.values() for length, _ in points}))
    if train_length is not None:
        axes.axvline(train_length, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            " trained at this length",
            (train_length, 0.97),
            xycoords=("data", "axes fraction"),
            va="top",
            color=MUTED,
            fontsize=9,
        )
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    axes.margins(y=0.1)
    axes.set_ylabel("perplexity")
    axes.set_xlabel("tokens read at once")
    return _save(figure, path)


def _spread(curves: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float, float, float]]:
    """Place, least, mean and greatest value, where all curves have a point."""
    seeds = [dict(curve) for curve in curves]
    shared = sorted(set.intersection(*map(set, seeds))) if seeds else []
    points = []
    for place in shared:
        values = [seed[place] for seed in seeds]
        points.append((place, min(values), sum(values) / len(values), max(values)))
    return points


def _figure(rows: int, heights: Sequence[float]) -> tuple[Any, Sequence[Any]]:
    # The object-oriented interface draws without a display and leaves a notebook's own settings alone.
    figure_module = require("matplotlib.figure", "plots", "drawing a picture")
    figure = figure_module.Figure(figsize=(8, 3 + 2 * (rows - 1)), dpi=130, layout="constrained")
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False, height_ratios=list(heights))[:, 0]
    for axis in axes:
        _style(axis)
        axis.margins(x=0.02)
    return figure, axes


def _draw_baseline(axis: Any, baseline: tuple[str, float], *, below: bool = False) -> None:
    axis.axhline(baseline[1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axis.annotate(
        f"{baseline[0]} {baseline[1]:.3f}",
        (1, baseline[1]),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="top" if below else "bottom",
        color=MUTED,
        fontsize=9,
    )


def _style(axis: Any) -> None:
    axis.grid(color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(GRID)
    axis.tick_params(colors=MUTED, labelsize=8.5)
    axis.yaxis.label.set_color(MUTED)
    axis.xaxis.label.set_color(MUTED)


def _save(figure: Any, path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path
