"""The claim about writing programs: what it asks for, and how answers are counted."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from lmmodules.claims import program_synthesis
from lmmodules.claims.program_synthesis import ASKED_OF_IT, CLAIMS, DIRECT, PROGRAMS, solved
from lmmodules.composition import compose_config
from lmmodules.data.math_questions import MathQuestion

[CLAIM] = CLAIMS


@pytest.mark.parametrize("arm", list(CLAIM.arms))
@pytest.mark.parametrize("scale", ["cpu", "gpu"])
def test_its_runs_compose(arm: str, scale: str) -> None:
    config = compose_config("train", *CLAIM.overrides(scale), *CLAIM.arms[arm])
    assert config.data.target == {PROGRAMS: "program", DIRECT: "answer"}[arm]
    assert config.max_steps == {"cpu": 2000, "gpu": 20000}[scale]


def test_both_are_asked_the_same_held_out_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answered(run: SimpleNamespace, questions: list[MathQuestion], writes_programs: bool) -> float:
        asked.append(questions)
        return 0.8 if writes_programs else 0.2

    class Runs:
        seed = 4

        def train(self, arm: str, *overrides: str) -> SimpleNamespace:
            return SimpleNamespace(kept=lambda name, measure: measure(), loss=lambda name: 0.7, curve=lambda name: [])

    monkeypatch.setattr(program_synthesis, "solved", answered)
    figures = CLAIM.measure(Runs()).figures
    assert figures == {PROGRAMS: 0.8, DIRECT: 0.2, f"{PROGRAMS}: written to the letter": 0.7, ASKED_OF_IT: 0.6}
    assert asked[0] == asked[1]
    assert len(asked[0]) == 300
    assert all(rule.judge([figures]).held for rule in CLAIM.rules)


@pytest.mark.parametrize(
    ("writes_programs", "written", "share"),
    [(True, ["print(2 + 2)", "print(5)", "prin"], 1 / 3), (False, ["4", "5.0", "1/4"], 2 / 3)],
)
def test_answers_are_compared_as_mathematics(
    writes_programs: bool, written: list[str], share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = [MathQuestion("a", "", "4"), MathQuestion("b", "", "6"), MathQuestion("c", "", "0.25")]
    tokenizer = SimpleNamespace(encode=list, decode=lambda text: text, eos_id=0)
    monkeypatch.setattr("lmmodules.checkpoint.load", lambda path: None)
    monkeypatch.setattr("lmmodules.checkpoint.load_tokenizer", lambda path: tokenizer)
    monkeypatch.setattr("lmmodules.evaluation.generation.generate", lambda *given, **options: written)
    monkeypatch.setattr(
        "lmmodules.evaluation.program_execution.run_programs",
        lambda texts: [SimpleNamespace(output={"print(2 + 2)": "4", "print(5)": "5"}.get(text, "")) for text in texts],
    )
    run = SimpleNamespace(outcome={"diverged": ""}, directory=Path("run"))
    assert solved(run, questions, writes_programs) == pytest.approx(share)
    assert solved(SimpleNamespace(outcome={"diverged": "at step 3"}), questions, writes_programs) == 0.0
