"""What becomes of an attempt at a question: one of six verdicts, and why."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from lmmodules.evaluation.answers import compare, extract_answer
from lmmodules.evaluation.course_programs import is_readable
from lmmodules.evaluation.sandbox import Execution
from lmmodules.synthesis.questions import Question

VerdictKind = Literal["correct", "wrong", "error", "timeout", "no_output", "needs_human"]
VERDICTS: tuple[VerdictKind, ...] = ("correct", "wrong", "error", "timeout", "no_output", "needs_human")
"""Six ways to end; `needs_human` is neither right nor wrong: a picture, prose, or no answer to compare with."""

PICTURE = re.compile(r"matplotlib|plt\.|plot\(|turtle")


@dataclass(frozen=True)
class Verdict:
    """What became of an attempt.

    Attributes:
        kind: One of `VERDICTS`.
        answer: What was taken for the answer; empty where there is none.
        reason: In words.
    """

    kind: VerdictKind
    answer: str = ""
    reason: str = ""

    @property
    def correct(self) -> bool:
        """Whether the question is solved."""
        return self.kind == "correct"


def is_gradable(question: Question) -> bool:
    """Whether a machine can tell the right answer of a question from others.

    Args:
        question: With the answer that is expected.
    """
    return bool(question.answer) and is_readable(question.answer)


def judge_execution(question: Question, program: str, run: Execution, tolerance: float) -> Verdict:
    """Judge a program by how it ran and what it printed.

    Args:
        question: That it is to answer.
        program: Its source.
        run: How it ran.
        tolerance: How far a number may lie from the expected, relative to it.
    """
    if run.status == "timeout":
        return Verdict("timeout", reason=run.reason)
    if run.status == "failed":
        return Verdict("error", reason=run.reason)
    if not run.output.strip() and not is_gradable(question) and PICTURE.search(program):
        return Verdict("needs_human", reason="a picture")
    return judge_output(question, run.output, tolerance)


def judge_output(question: Question, output: str, tolerance: float) -> Verdict:
    """Judge what was printed, or what a model wrote as its answer.

    Args:
        question: That it is to answer.
        output: In whose last line, or behind `ANSWER:`, the answer stands.
        tolerance: How far a number may lie from the expected, relative to it.
    """
    found = extract_answer(output)
    if found.text is None:
        two_answers = found.reason.endswith("different answers were printed")
        return Verdict("wrong" if two_answers else "no_output", reason=found.reason)
    if not question.answer:
        return Verdict("needs_human", found.text, "no answer is known to compare with")
    comparison = compare(found.text, question.answer, tolerance)
    if comparison.correct:
        return Verdict("correct", found.text, comparison.reason)
    if not is_gradable(question):
        return Verdict("needs_human", found.text, "the expected answer is prose or a picture")
    return Verdict("wrong", found.text, comparison.reason)
