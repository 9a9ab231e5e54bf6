"""Fresh mathematics questions with programs and answers, as many as are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmmodules.data.math_subjects import SUBJECTS, Draws, Kind
from lmmodules.data.randomness import Int64Array, hash_keys
from lmmodules.errors import InputError


@dataclass(frozen=True)
class MathQuestion:
    """A question, a program that prints its answer, and the answer.

    Attributes:
        question: In words.
        program: Python source; empty where there is none.
        answer: As `evaluation.answers.compare` reads it; empty where it is not known.
        subject: One of `SUBJECTS`, or where the question comes from.
        kind: Of question within the subject.
    """

    question: str
    program: str
    answer: str
    subject: str = ""
    kind: str = ""


class MathQuestions:
    """Questions by number: each follows from the seed and its number alone.

    A question is held out, or not, by a hash of its program. So a held-out question never has the program of one that
    is trained on, however both are worded and whatever the seeds are.

    Args:
        subjects: Names out of `SUBJECTS`; `None` takes all.
        kinds: Names of kinds of question; `None` takes all of the subjects.
        held_out_fraction: Share of the programs that is held out.
        seed: Of everything.

    Raises:
        InputError: When there is no such subject or kind, or the share is not between 0 and 1.

    Source:
        The subjects are those of Drori et al. 2022; the questions are our own.
    """

    def __init__(
        self,
        subjects: Sequence[str] | None = None,
        kinds: Sequence[str] | None = None,
        *,
        held_out_fraction: float = 0.1,
        seed: int = 0,
    ) -> None:
        if not 0 < held_out_fraction < 1:
            raise InputError(
                f"`held_out_fraction` must be above 0 and below 1, but is {held_out_fraction}; use "
                "`data.validation_fraction=0.1`"
            )
        chosen = _among("subjects", subjects, list(SUBJECTS))
        known = {kind.__name__: (subject, kind) for subject in chosen for kind in SUBJECTS[subject]}
        self.kinds: list[tuple[str, Kind]] = [known[name] for name in _among("kinds", kinds, list(known))]
        self.held_out_fraction = held_out_fraction
        self.seed = seed

    def questions(self, epochs: Int64Array, indices: Int64Array, *, held_out: bool = False) -> list[MathQuestion]:
        """The questions of samples.

        Args:
            epochs: (B,) of each sample.
            indices: (B,) of each sample.
            held_out: Those to validate on instead of those to train on.
        """
        part = "held out" if held_out else "training"
        keys = hash_keys(self.seed, epochs, indices, f"math/{part}")
        return [self._question(Draws(int(key)), held_out) for key in keys]

    def first(self, count: int, *, held_out: bool = False) -> list[MathQuestion]:
        """The first questions of a part.

        Args:
            count: How many.
            held_out: See `questions`.
        """
        return self.questions(np.zeros(count, dtype=np.int64), np.arange(count), held_out=held_out)

    def is_held_out(self, program: str) -> bool:
        """Whether questions with a program are validated on.

        Args:
            program: Its source.
        """
        digest = hashlib.blake2b(program.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") < self.held_out_fraction * 2**64

    def _question(self, draws: Draws, held_out: bool) -> MathQuestion:
        subject, kind = draws.choice(self.kinds)
        while True:  # with other numbers, until it belongs to the part
            problem = kind(draws)
            if self.is_held_out(problem.program) == held_out:
                return MathQuestion(
                    draws.choice(problem.wordings), problem.program, problem.answer, subject, kind.__name__
                )


def _among(name: str, given: Sequence[str] | None, known: list[str]) -> list[str]:
    for value in given or ():
        if value not in known:
            raise InputError(f"`data.{name}` must be among {', '.join(known)}, but names {value}")
    if given is not None and not given:
        raise InputError(f"`data.{name}` must name at least one of {', '.join(known)}; use `data.{name}=null` for all")
    return known if given is None else list(given)
