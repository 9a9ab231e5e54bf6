"""Results over seeds, kept as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from lmmodules.claims import Claim
from lmmodules.claims.results import Result
from lmmodules.trial import FinishedRun


class TestAggregation:
    def test_mean_and_standard_deviation(self, result: Result) -> None:
        assert result.arms == ["left", "right"]
        assert result.mean("left") == 2.0
        assert result.standard_deviation("left") == 1.0
        assert result.mean("right") == 3.0
        assert result.standard_deviation("right") == pytest.approx(math.sqrt(3.0))  # 1, 1 and 4 over 2

    def test_a_claim_holds_when_every_rule_is_met(self, result: Result) -> None:
        below, not_above = result.findings()
        assert not below.held  # equal in one seed
        assert below.difference == -1.0
        assert below.standard_error == pytest.approx(1.0 / math.sqrt(3.0))
        assert not not_above.held  # 1 above, and 0.5 is allowed
        assert not result.held
        met = replace(result.claim, rules=())
        assert replace(result, claim=met).held

    def test_curves_of_every_seed(self, result: Result) -> None:
        assert result.curves()["left"] == [[(1.0, 2.0), (3.0, 1.0)], [(1.0, 3.0), (3.0, 2.0)], [(1.0, 4.0), (3.0, 3.0)]]
        assert result.curves()["right"] == [[], [], []]

    def test_the_scale_is_part_of_the_name_unless_it_is_cpu(self, result: Result) -> None:
        assert result.stem == "shoes_left_first"
        assert replace(result, scale="gpu").stem == "shoes_left_first_gpu"


class TestJson:
    def test_what_is_written_is_read(self, result: Result, tmp_path: Path) -> None:
        path = result.write(tmp_path)
        assert path.name == "shoes_left_first.json"
        assert Result.read(result.claim, "cpu", tmp_path) == result
        content = json.loads(path.read_text())
        assert content["held"] is False
        assert content["findings"][0]["difference"] == -1.0

    def test_infinities_survive_though_json_has_none(self, diverged: Result, tmp_path: Path) -> None:
        text = diverged.write(tmp_path).read_text()
        assert "Infinity" not in text
        read = Result.read(diverged.claim, "cpu", tmp_path)
        assert read is not None
        assert read.figures("right") == [2.0, 2.0, math.inf]
        assert read.findings() == diverged.findings()

    def test_what_was_not_measured_is_not_there(self, claim: Claim, tmp_path: Path) -> None:
        assert Result.read(claim, "gpu", tmp_path) is None


def test_runs_tell_of_themselves(result: Result, tmp_path: Path) -> None:
    runs = []
    for number, (arm, seconds) in enumerate([("left", 1.5), ("right", 2.25)]):
        directory = tmp_path / str(number)
        directory.mkdir()
        (directory / "summary.json").write_text('{"unigram_entropy": 6.5}')
        outcome = {
            "overrides": ["a=1", f"b={number}", "seed=3"],
            "diverged": "",
            "seconds": seconds,
            "facts": {"network": "of straps"},
            "environment": {
                "device": "a foot",
                "threads": 2,
                "python": "3.10",
                "git_commit": "abc",
                "packages": {"torch": "2.11"},
                "command": ["secret"],
            },
        }
        runs.append(FinishedRun(arm, directory, outcome))
    gathered = Result.of_runs(result.claim, "cpu", {3: result.seeds[0]}, runs)
    assert gathered.overrides == {"left": ["a=1", "b=0"], "right": ["a=1", "b=1"]}
    assert gathered.seconds == 3.8
    assert gathered.unigram_entropy == 6.5
    assert gathered.facts["left"] == {"network": "of straps"}
    assert gathered.environment == {
        "device": "a foot",
        "threads": 2,
        "python": "3.10",
        "git_commit": "abc",
        "torch": "2.11",
    }
