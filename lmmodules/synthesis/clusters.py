"""Questions as a picture: the two directions in which their vectors differ most, a colour per course."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lmmodules.errors import require
from lmmodules.plots import COLOURS, GRID, INK, MUTED
from lmmodules.synthesis.embedding import Vectors

MARKERS = "os^Dvp*"


def principal_components(vectors: Vectors) -> tuple[npt.NDArray[np.float64], float]:
    """Places of vectors in the plane in which they differ most.

    Args:
        vectors: (N, D), at least two.

    Returns:
        (N, 2) places, each direction with the sign that makes its largest entry positive; and the share of the
        variance that the plane shows.

    Differences:
        Drori et al. 2022 draw by UMAP, without a seed. A projection shows less and bends nothing.
    """
    centred = vectors.astype(np.float64) - vectors.mean(0, dtype=np.float64)
    _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
    plane = directions[:2]
    largest = np.take_along_axis(plane, np.abs(plane).argmax(1)[:, None], axis=1)
    places = centred @ (plane * np.sign(largest)).T
    variance = sizes**2
    return places, float(variance[:2].sum() / max(variance.sum(), 1e-30))


def neighbours_of_the_course(vectors: Vectors, courses: Sequence[str]) -> float:
    """Share of questions whose most similar other question is of the same course.

    Args:
        vectors: (N, D) of length one.
        courses: Of each.
    """
    cosines = (vectors @ vectors.T).astype(np.float64)
    np.fill_diagonal(cosines, -np.inf)
    return float(np.mean([courses[other] == course for course, other in zip(courses, cosines.argmax(1), strict=True)]))


def draw_clusters(vectors: Vectors, courses: Sequence[str], path: str | os.PathLike[str]) -> Path:
    """Draw questions, a dot each.

    Args:
        vectors: (N, D) of length one.
        courses: Of each.
        path: The picture.

    Returns:
        The path.

    Raises:
        InputError: When matplotlib is not installed.
    """
    figure_module = require("matplotlib.figure", "plots", "drawing a picture")
    places, share = principal_components(vectors)
    figure: Any = figure_module.Figure(figsize=(7.5, 5.5), dpi=130, layout="constrained")
    axes = figure.subplots()
    styles = zip(itertools.cycle(COLOURS), itertools.cycle(MARKERS), strict=False)
    for course, (colour, marker) in zip(dict.fromkeys(courses), styles, strict=False):
        mine = places[[number for number, other in enumerate(courses) if other == course]]
        axes.scatter(*mine.T, s=26, color=colour, marker=marker, alpha=0.75, linewidths=0, label=course)
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.tick_params(colors=MUTED, labelsize=8.5)
    axes.set_xlabel(f"first two principal components, {share:.0%} of the variance", color=MUTED)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path
