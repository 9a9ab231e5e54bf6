"""The claim about facts: which runs it asks for, and what it makes of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from lmmodules.claims.p_tuning import LEARNED, MAJORITY, MANUAL, PROMPTS_LEARNED, RELATIONS, TUNED
from lmmodules.composition import compose_config

VALUES = {MANUAL: 0.5, LEARNED: 0.7, TUNED: 0.8}


class Runs:
    """In the place of a trial: every run is finished, and has its value."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.asked: list[tuple[str, ...]] = []

    def train(self, arm: str, *overrides: str) -> SimpleNamespace:
        self.asked.append(overrides)
        checkpoints = self.directory / arm / "checkpoints"
        checkpoints.mkdir(parents=True)
        value = VALUES[arm.rpartition(" ")[0]] + 0.1 * RELATIONS.index(arm.rpartition(" ")[2])
        return SimpleNamespace(
            directory=self.directory / arm,
            outcome={"diverged": "", "facts": {"always the most frequent object": "0.6000 right, mean over relations"}},
            loss=lambda metric: value,
        )


def test_figures_are_means_over_relations(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    figures = PROMPTS_LEARNED.measure(runs).figures
    assert figures[LEARNED] == pytest.approx(0.8)
    assert figures[f"{RELATIONS[0]}, {MANUAL}"] == 0.5
    assert figures[MAJORITY] == 0.6
    assert not list(tmp_path.rglob("checkpoints"))
    assert len(runs.asked) == 3 * len(RELATIONS)
    findings = [rule.judge([figures]) for rule in PROMPTS_LEARNED.rules]
    assert all(finding.held for finding in findings)


@pytest.mark.parametrize("arm", list(PROMPTS_LEARNED.arms))
def test_its_runs_compose(arm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMM_LAMA", "lama")
    monkeypatch.setenv("LMM_SMOLLM2", "smollm2")
    config = compose_config("train", *PROMPTS_LEARNED.overrides("cpu"), *PROMPTS_LEARNED.arms[arm])
    assert config.objective.tune_backbone == (arm != LEARNED)
    assert config.max_steps == (1 if arm == MANUAL else 75)
    assert config.data.path == "lama"
