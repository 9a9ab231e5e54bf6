"""The picture of a claim shows the numbers it was given."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmmodules.plots import plot_claim

pytest.importorskip("matplotlib")

CURVES = {"quick": [[(1.0, 5.0), (2.0, 3.0)], [(1.0, 7.0), (2.0, 4.0)]], "slow": [[(1.0, 8.0), (2.0, 8.0)], []]}
FIGURES = {"quick": [3.0, 4.0], "slow": [8.0, math.inf]}


@pytest.fixture
def draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Draws, and gives the figure."""
    import matplotlib.figure

    saved: list[Any] = []
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda figure, path: saved.append(figure))

    def picture(curves: Any = CURVES, figures: Any = FIGURES, **options: Any) -> Any:
        plot_claim(curves, figures, tmp_path / "x.png", unit="nats", curve_label="steps", **options)
        return saved[-1]

    return picture


def lines(axes: Any) -> list[list[tuple[float, float]]]:
    return [list(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in axes.get_lines()]


def test_a_line_through_the_means_and_a_band_over_the_seeds(draw: Callable[..., Any]) -> None:
    left, _ = draw().axes
    assert lines(left) == [[(1.0, 6.0), (2.0, 3.5)], [(1.0, 8.0), (2.0, 8.0)]]
    band = left.collections[0].get_paths()[0].vertices
    assert {(1.0, 5.0), (1.0, 7.0), (2.0, 3.0), (2.0, 4.0)} <= {tuple(point) for point in band.tolist()}
    assert (left.get_xlabel(), left.get_ylabel()) == ("steps", "nats")


def test_only_places_that_all_seeds_have(draw: Callable[..., Any]) -> None:
    left, _ = draw({"quick": [[(1.0, 5.0), (2.0, 3.0)], [(2.0, 4.0)]]}).axes
    assert lines(left) == [[(2.0, 3.5)]]


def test_a_dot_for_every_seed(draw: Callable[..., Any]) -> None:
    _, right = draw().axes
    assert lines(right) == [[(3.0, 0), (4.0, 0)], [(3.5, -0.1), (3.5, 0.1)], [(8.0, 1)], [(8.0, 0.9), (8.0, 1.1)]]
    assert [text.get_text() for text in right.texts] == ["quick  3.500", "slow  diverged"]
    assert [text.get_color() for text in right.texts] == [line.get_color() for line in right.get_lines()[::2]]


def test_figures_of_an_arm_have_its_colour_and_no_two_arms_have_one(draw: Callable[..., Any]) -> None:
    arms = [f"arm {letter}" for letter in "abcdefgh"]
    names = [*arms, "arm a at 128", "arm b: accuracy", "arm b without"]
    _, right = draw(figures={name: [1.0] for name in names}).axes
    colours = dict(zip(names, (text.get_color() for text in right.texts), strict=True))
    assert len({colours[arm] for arm in arms}) == 8
    assert (colours["arm a at 128"], colours["arm b: accuracy"]) == (colours["arm a"], colours["arm b"])
    assert colours["arm b without"] != colours["arm b"]


def test_a_run_that_always_diverged_has_a_name_and_no_dot(draw: Callable[..., Any]) -> None:
    _, right = draw(figures={"quick": [3.0, 4.0], "lost": [math.inf, math.inf]}).axes
    assert len(lines(right)) == 2
    assert right.texts[1].get_text() == "lost  diverged"


@pytest.mark.parametrize(("baseline", "shown"), [(6.5, True), (60.0, False)])
def test_the_baseline_is_drawn_where_it_is_among_the_curves(
    draw: Callable[..., Any], baseline: float, shown: bool
) -> None:
    left, _ = draw(baseline=("without context", baseline)).axes
    assert [text.get_text() for text in left.texts] == ([f"without context {baseline:.3f}"] if shown else [])


def test_without_curves_there_are_only_dots(draw: Callable[..., Any]) -> None:
    (axes,) = draw({"quick": [[], []]}).axes
    assert len(axes.texts) == 2
    assert axes.get_xlabel() == "nats, a dot per seed"


def test_a_curve_without_a_figure_is_told_in_a_legend(draw: Callable[..., Any]) -> None:
    left, _ = draw().axes
    assert left.get_legend() is None
    left, _ = draw({**CURVES, "other": [[(1.0, 6.0)]]}).axes
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["quick", "slow", "other"]
