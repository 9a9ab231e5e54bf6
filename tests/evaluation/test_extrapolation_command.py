"""`lmm-evaluate evaluation=extrapolation`: a table, a picture and a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lmmodules.evaluate import draw, print_figures


def test_rows_become_a_table_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"length": 128, "sliding_loss": 3.25}, {"length": 2048, "sliding_loss": 3.125}]
    print_figures({"lengths": rows, "targets": 12345, "note": "all there is"}, "runs/mine")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["runs/mine"],
        ["targets", "12,345"],
        ["note", "all", "there", "is"],
        ["length", "sliding", "loss"],
        ["128", "3.2500"],
        ["2,048", "3.1250"],
    ]


def test_curves_become_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    draw({"side by side": [(128, 40.0), (256, 39.0)]}, tmp_path / "evaluation.png")
    assert (tmp_path / "evaluation.png").read_bytes().startswith(b"\x89PNG")
    assert "evaluation.png" in capsys.readouterr().out


def test_without_matplotlib_the_figures_stand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    draw({"side by side": [(128, 40.0), (256, 39.0)]}, tmp_path / "evaluation.png")
    assert "needs `matplotlib`: pip install 'lmmodules[plots]'" in capsys.readouterr().out


@pytest.mark.slow
def test_a_checkpoint_of_learned_positions(command: Any, tiny: list[str], texts: Path, tmp_path: Path) -> None:
    learned = ["position=learned", "model.max_length=32", "max_steps=2", "paths.output_dir=here"]
    trained = command("train", *tiny, *learned)
    assert trained.returncode == 0, trained.stderr
    scoring = ["evaluation=extrapolation", "evaluation.lengths=[8,16,64]", "evaluation.stride=4"]
    done = command("evaluate", "checkpoint=here", f"data.path={texts}", *scoring, "paths.output_dir=scored")
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "scored" / "evaluation.json").read_text())
    assert [row["length"] for row in figures["lengths"]] == [8, 16, 32]
    assert figures["note"] == "the model's positions end at 32: 64 could not be scored"
    assert "early token curse" in done.stdout
    assert figures["note"] in " ".join(done.stdout.split())
    wrong = command("evaluate", "checkpoint=here", "evaluation=extrapolation", "evaluation.stride=500")
    assert wrong.returncode == 2
    assert "use `evaluation.stride=128`" in wrong.stderr
