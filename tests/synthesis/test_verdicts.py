"""Six verdicts, each with its reason."""

from __future__ import annotations

from typing import Literal

import pytest

from lmmodules.evaluation.sandbox import Execution
from lmmodules.synthesis import Question
from lmmodules.synthesis.verdicts import VERDICTS, is_gradable, judge_execution

Status = Literal["finished", "failed", "timeout"]
PROSE = "The lines meet in one point"


def judge(output: str, answer: str, status: Status = "finished", program: str = "", tolerance: float = 1e-6):
    run = Execution(status, output, "", 0.1, "" if status == "finished" else "ran longer than 1 seconds")
    return judge_execution(Question("q", "?", answer), program, run, tolerance)


CASES = [
    ("391.0\n", "391", "finished", "", "correct", "equal"),
    ("391.0000001", "391", "finished", "", "correct", "within 1e-06 of the expected"),
    ("392", "391", "finished", "", "wrong", "two different whole numbers"),
    ("three hundred", "391", "finished", "", "wrong", "not read as mathematics"),
    ("ANSWER: 1\nANSWER: 2", "1", "finished", "", "wrong", "2 different answers were printed"),
    ("391", "391", "failed", "", "error", "ran longer"),
    ("391", "391", "timeout", "", "timeout", "ran longer than 1 seconds"),
    ("", "391", "finished", "", "no_output", "nothing was printed"),
    ("", "391", "finished", "import matplotlib", "no_output", "nothing was printed"),
    ("", "Graph", "finished", "import matplotlib", "needs_human", "a picture"),
    ("", PROSE, "finished", "x = 1", "no_output", "nothing was printed"),
    ("(1, 2)", PROSE, "finished", "", "needs_human", "prose or a picture"),
    ("the lines  meet in one point", PROSE, "finished", "", "correct", "the same text"),
    ("391", "", "finished", "", "needs_human", "no answer is known"),
]


@pytest.mark.parametrize(("output", "answer", "status", "program", "kind", "reason"), CASES)
def test_verdict(output: str, answer: str, status: Status, program: str, kind: str, reason: str) -> None:
    verdict = judge(output, answer, status, program)
    assert verdict.kind == kind
    assert reason in verdict.reason
    assert verdict.correct == (kind == "correct")


def test_all_are_met() -> None:
    assert {kind for *_, kind, _ in CASES} == set(VERDICTS)


def test_the_tolerance() -> None:
    assert judge("3.1412", "3.14159").kind == "wrong"
    assert judge("3.1412", "3.14159", tolerance=1e-3).kind == "correct"


def test_what_a_machine_can_judge() -> None:
    answers = {"391": True, "x**2 + 1": True, "[1, 2]": True, "Graph": False, PROSE: False, "": False}
    assert {answer: is_gradable(Question("q", "?", answer)) for answer in answers} == answers
