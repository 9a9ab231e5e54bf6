"""Pictures show the numbers they were given."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from lmmodules.errors import InputError
from lmmodules.plots import plot_learning_rate, plot_lengths, plot_run

pytest.importorskip("matplotlib")

ROWS = [
    {"step": 10.0, "train/loss": 5.5, "lr": 1e-3},
    {"step": 20.0, "train/loss": 4.25, "lr": 2e-3, "val/loss": 4.75},
    {"step": 30.0, "train/loss": 3.125, "lr": 5e-4},
    {"step": 40.0, "val/loss": 3.875, "val/perplexity": 48.2},
]


@pytest.fixture
def figure(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """The figure that was saved last."""
    import matplotlib.figure

    saved: list[Any] = []
    real = matplotlib.figure.Figure.savefig

    def savefig(self: Any, *arguments: Any, **options: Any) -> None:
        saved.append(self)
        real(self, *arguments, **options)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", savefig)
    return lambda: saved[-1]


def curves(axes: Any) -> list[list[tuple[float, float]]]:
    """The points of every line drawn in the data's own coordinates."""
    return [
        list(zip(line.get_xdata(), line.get_ydata(), strict=True))
        for line in axes.get_lines()
        if line.get_transform() == axes.transData
    ]


def labels(axes: Any) -> list[str]:
    return [text.get_text().strip() for text in axes.texts]


def png_size(path: Path) -> tuple[int, int]:
    header = path.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", header[16:24])
    return width, height


class TestRun:
    def test_losses_and_rate_are_drawn(self, tmp_path: Path, figure: Callable[[], Any]) -> None:
        path = plot_run(ROWS, tmp_path / "deep" / "loss.png")
        assert path == tmp_path / "deep" / "loss.png"
        width, height = png_size(path)
        assert (width, height) == (8 * 130, 5 * 130)
        upper, lower = figure().axes
        assert curves(upper) == [[(10, 5.5), (20, 4.25), (30, 3.125)], [(20, 4.75), (40, 3.875)]]
        assert curves(lower) == [[(10, 1e-3), (20, 2e-3), (30, 5e-4)]]
        assert labels(upper) == ["training 3.125", "validation 3.875"]
        assert upper.get_ylabel() == "loss (nats per target)"
        assert lower.get_ylabel() == "learning rate"
        assert lower.get_xlabel() == "optimizer steps"

    def test_the_loss_without_context_is_a_line_across(self, tmp_path: Path, figure: Callable[[], Any]) -> None:
        plot_run(ROWS, tmp_path / "loss.png")
        assert len(figure().axes[0].get_lines()) == 2
        plot_run(ROWS, tmp_path / "loss.png", baseline=("without context", 6.5))
        upper = figure().axes[0]
        line = upper.get_lines()[2]
        assert list(line.get_ydata()) == [6.5, 6.5]
        assert list(line.get_xdata()) == [0, 1], "of the width of the picture"
        assert labels(upper)[2] == "without context 6.500"

    def test_a_single_point_is_visible(self, tmp_path: Path, figure: Callable[[], Any]) -> None:
        plot_run(ROWS[:1], tmp_path / "loss.png")
        (line,) = figure().axes[0].get_lines()
        assert line.get_marker() == "o"

    def test_a_run_without_a_row_still_has_a_picture(self, tmp_path: Path, figure: Callable[[], Any]) -> None:
        png_size(plot_run([], tmp_path / "loss.png"))
        assert [axes.get_lines() for axes in figure().axes] == [[], []]

    def test_the_suffix_says_what_is_written(self, tmp_path: Path) -> None:
        assert "<svg" in plot_run(ROWS, str(tmp_path / "loss.svg")).read_text()

    def test_a_picture_is_written_over(self, tmp_path: Path) -> None:
        first = plot_run(ROWS, tmp_path / "loss.png").read_bytes()
        assert plot_run(ROWS[:2], tmp_path / "loss.png").read_bytes() != first


class TestLearningRate:
    def test_the_curve_is_drawn(self, tmp_path: Path, figure: Callable[[], Any]) -> None:
        path = plot_learning_rate([0.0, 0.5, 1.0, 0.25], tmp_path / "lr.png", title="a ramp")
        assert png_size(path) == (8 * 130, 3 * 130)
        (axes,) = figure().axes
        assert curves(axes) == [[(0, 0.0), (1, 0.5), (2, 1.0), (3, 0.25)]]
        assert axes.get_title(loc="left") == "a ramp"
        assert axes.get_ylim()[0] == 0

    def test_steps_may_be_given(self, tmp_path: Path, figure: Callable[[], Any]) -> None:
        plot_learning_rate([1.0, 0.5], tmp_path / "lr.png", title="x", steps=[100, 300])
        assert curves(figure().axes[0]) == [[(100, 1.0), (300, 0.5)]]


class TestLengths:
    CURVES: ClassVar = {"alibi": [(128, 40.0), (1024, 38.5)], "sinusoidal": [(128, 42.0), (1024, 900.0)]}

    def test_perplexity_is_drawn_over_length(self, tmp_path: Path, figure: Callable[[], Any]) -> None:
        path = plot_lengths(self.CURVES, tmp_path / "lengths.png")
        assert png_size(path) == (8 * 130, 3 * 130)
        (axes,) = figure().axes
        assert curves(axes) == list(self.CURVES.values())
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["alibi", "sinusoidal"]
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        assert list(axes.get_xticks()) == [128, 1024]
        assert [label.get_text() for label in axes.get_xticklabels()] == ["128", "1024"]
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("tokens read at once", "perplexity")

    def test_the_training_length_is_marked(self, tmp_path: Path, figure: Callable[[], Any]) -> None:
        plot_lengths(self.CURVES, tmp_path / "lengths.png", train_length=128)
        (axes,) = figure().axes
        assert list(axes.get_lines()[-1].get_xdata()) == [128, 128]
        assert labels(axes) == ["trained at this length"]


def test_the_interactive_interface_is_left_alone(tmp_path: Path) -> None:
    before = "matplotlib.pyplot" in sys.modules
    plot_run(ROWS, tmp_path / "loss.png")
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for draw in (
        lambda: plot_run(ROWS, tmp_path / "a.png"),
        lambda: plot_learning_rate([1.0], tmp_path / "a.png", title=""),
        lambda: plot_lengths({"a": [(1, 1.0)]}, tmp_path / "a.png"),
    ):
        with pytest.raises(InputError, match=r"needs `matplotlib`: pip install 'lmmodules\[plots\]'"):
            draw()
    assert not list(tmp_path.iterdir())
