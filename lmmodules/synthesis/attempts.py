"""An attempt at a question, from the prompt to the verdict."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from lmmodules.evaluation.sandbox import Execution
from lmmodules.synthesis.questions import Question
from lmmodules.synthesis.verdicts import Verdict


@dataclass(frozen=True)
class Attempt:
    """A question put to a model once, and what came of it so far.

    Attributes:
        question: To be solved.
        stage: `zero_shot` or `few_shot`.
        prompt: What the model was given.
        examples: Keys of the questions shown before it, in that order.
        completion: What the model wrote; `None` before it was asked.
        program: The program in it; empty where there is none, or none is wanted.
        execution: How it ran; `None` before that.
        refusal: Why the model was not asked, in words; empty where it was.
        verdict: What became of it; `None` before that.
    """

    question: Question
    stage: str
    prompt: str
    examples: tuple[str, ...] = ()
    completion: str | None = None
    program: str = ""
    execution: Execution | None = None
    refusal: str = ""
    verdict: Verdict | None = None

    @property
    def solved(self) -> bool:
        """Whether the question is solved by it."""
        return self.verdict is not None and self.verdict.correct

    def record(self) -> dict[str, Any]:
        """Everything as plain values, for a line of a journal."""
        content = dataclasses.asdict(self)
        return {**content, "question": self.question.key}

    def recalled(self, record: dict[str, Any]) -> Attempt:
        """This attempt with what a record says of an earlier one with the same prompt: all but the verdict.

        Args:
            record: As `record` makes it.

        Raises:
            KeyError: When something is missing in it.
            TypeError: When something is of the wrong kind.
        """
        run = None if record["execution"] is None else Execution(**record["execution"])
        return dataclasses.replace(
            self, completion=str(record["completion"]), program=str(record["program"]), execution=run
        )
