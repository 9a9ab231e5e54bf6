"""Runs side by side."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lmmodules.comparison import compare_runs, read_overrides
from lmmodules.errors import InputError

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def leave_run(
    directory: Path, overrides: list[str], loss: float | None = None, error: str | None = None, steps: int = 4
) -> None:
    directory.mkdir(parents=True)
    (directory / "overrides.yaml").write_text("".join(f"- {override}\n" for override in overrides))
    rows = [f"{step},{9 - step}" for step in range(1, steps)] + ([f"{steps},{loss}"] if loss is not None else [])
    (directory / "metrics.csv").write_text("step,val/loss\n" + "\n".join(rows) + "\n")
    if loss is not None:
        summary = {"steps": steps, "seconds": 1.6, "val_loss": loss, "train_loss": -loss, "checkpoint": "last.ckpt"}
        (directory / "summary.json").write_text(json.dumps(summary))
    if error is not None:
        (directory / "error.txt").write_text(error)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    common = ["max_steps=4", "paths.sweep_dir=x"]
    leave_run(tmp_path / "sweep/0", [*common, "optimizer.lr=0.1", "seed=0"], loss=3.0)
    leave_run(tmp_path / "sweep/2", [*common, "optimizer.lr=0.1", "seed=1"], loss=1.5)
    leave_run(tmp_path / "sweep/10", [*common, "optimizer.lr=0.2", "seed=0"], loss=2.0)
    leave_run(
        tmp_path / "sweep/11", [*common, "optimizer.lr=0.3", "seed=0"], error="Traceback\nKeyError: 'a|b'\n", steps=2
    )
    leave_run(tmp_path / "sweep/12", [*common, "optimizer.lr=0.4", "seed=0"], steps=3)
    return tmp_path / "sweep"


def test_best_first_by_what_differs(sweep: Path) -> None:
    comparison = compare_runs(sweep)
    assert [run.name for run in comparison.runs] == ["2", "10", "0", "11", "12"]
    assert comparison.header() == ["run", "optimizer.lr", "seed", "val_loss", "steps", "seconds", "state"]
    assert comparison.rows() == [
        ["2", "0.1", "1", "1.5000", "4", "2", "done"],
        ["10", "0.2", "0", "2.0000", "4", "2", "done"],
        ["0", "0.1", "0", "3.0000", "4", "2", "done"],
        ["11", "0.3", "0", "", "1", "", "failed: KeyError: 'a|b'"],
        ["12", "0.4", "0", "", "2", "", "not finished, step 2"],
    ]
    assert [run.name for run in compare_runs(sweep, "train_loss").runs][:3] == ["0", "10", "2"]


def test_seeds_of_a_setting_are_one_arm(sweep: Path) -> None:
    arms = compare_runs(sweep).arms()
    assert {label: [run.name for run in runs] for label, runs in arms.items()} == {
        "lr=0.1": ["2", "0"], "lr=0.2": ["10"], "lr=0.3": ["11"], "lr=0.4": ["12"],
    }  # fmt: skip
    assert list(compare_runs(sweep).arms(most=2)) == ["lr=0.1", "lr=0.2"]


def test_pages_for_people_and_programs(sweep: Path) -> None:
    comparison = compare_runs(sweep)
    assert list(csv.reader(comparison.comma_separated().splitlines())) == [comparison.header(), *comparison.rows()]
    page = comparison.markdown().splitlines()
    assert page[3] == "|" + " --- |" * 7
    assert "KeyError: 'a\\|b'" in page[7]
    assert len(page) == 11


def test_a_run_that_ended_well_after_an_error_is_read_as_it_lies(tmp_path: Path) -> None:
    leave_run(tmp_path / "a", ["max_steps=4"], loss=1.0)
    assert compare_runs(tmp_path).varied == []
    assert compare_runs(tmp_path / "a").rows() == [[".", "1.0000", "4", "2", "done"]]


def test_wrong_input(sweep: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for directory in (tmp_path / "nowhere", tmp_path / "empty"):
        with pytest.raises(InputError, match="`directory` must"):
            compare_runs(directory)
    with pytest.raises(InputError, match="but is `loss`; there are seconds, steps, train_loss, val_loss"):
        compare_runs(sweep, "loss")


def test_where_a_run_is_written_is_no_setting(tmp_path: Path) -> None:
    path = tmp_path / "overrides.yaml"
    path.write_text("- +a.b=1\n- paths.output_dir=x\n- hydra/launcher=slurm\n- model=gpt2\n")
    assert read_overrides(path) == {"a.b": "1", "model": "gpt2"}
    assert read_overrides(tmp_path / "none.yaml") == {}


def test_the_command(sweep: Path, command: Command) -> None:
    result = command("compare", str(sweep))
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["run", "optimizer.lr", "seed", "val_loss", "steps", "seconds", "state"]
    assert lines[1].split()[0] == "2"
    assert "written to" in result.stdout
    for name in ("comparison.md", "comparison.csv", "comparison.png"):
        assert (sweep / name).stat().st_size > 100
    missing = command("compare")
    assert missing.returncode == 2
    assert "`directory` is missing" in missing.stderr
