"""Time and memory over each size, on logarithmic axes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.growth import STUDIES, Growth
from lmmodules.errors import require
from lmmodules.plots import BLUE, GRID, MUTED, ORANGE

PICTURE = Path(__file__).parent.parent / "docs" / "growth.png"


def draw(growths: Sequence[Growth], path: Path = PICTURE) -> Path:
    """Draw every study: time in the upper row and memory in the lower, with a line in proportion to compare with.

    Args:
        growths: Measured.
        path: The picture.

    Raises:
        InputError: When matplotlib is not installed.
    """
    figure_module = require("matplotlib.figure", "plots", "drawing a picture")
    figure = figure_module.Figure(figsize=(2.6 * len(growths), 4.6), dpi=130, layout="constrained")
    panels = figure.subplots(2, len(growths), sharex="col", squeeze=False)
    for column, growth in enumerate(growths):
        values = [point.value for point in growth.points]
        quantities = (
            ([point.seconds for point in growth.points], BLUE, "seconds"),
            ([point.memory_mb for point in growth.points], ORANGE, "megabytes added"),
        )
        for axes, (numbers, colour, label) in zip(panels[:, column], quantities, strict=True):
            _style(axes)
            line = [numbers[0] * value / values[0] for value in values]
            axes.plot(values, line, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
            axes.plot(values, numbers, color=colour, linewidth=1.8, marker="o", markersize=4)
            if column == 0:
                axes.set_ylabel(label, color=MUTED)
        panels[0, column].set_title(STUDIES[growth.study].title, fontsize=10)
        panels[1, column].set_xlabel(STUDIES[growth.study].axis, color=MUTED, fontsize=9)
    panels[0, 0].annotate("dashed: in proportion", (0.04, 0.92), xycoords="axes fraction", color=MUTED, fontsize=8.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _style(axes: Any) -> None:
    ticker = require("matplotlib.ticker", "plots", "drawing a picture")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(ticker.FuncFormatter(_short))
        axis.set_minor_formatter(ticker.NullFormatter())
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.tick_params(colors=MUTED, labelsize=8)


def _short(value: float, _: int) -> str:
    """1,024 as 1k, so that it fits below an axis."""
    return f"{value / 1024:g}k" if value >= 1024 and value % 1024 == 0 else f"{value:g}"
