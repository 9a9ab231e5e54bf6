"""Published programs as examples, as far as they run to their answers; what was found of them is kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence

from lmmodules.data.math_courses import CourseQuestion
from lmmodules.evaluation.course_programs import COURSE_LIMITS, verify
from lmmodules.evaluation.sandbox import Limits
from lmmodules.synthesis.journal import Journal
from lmmodules.synthesis.questions import Example, course_examples, course_key


def verified_examples(
    questions: Sequence[CourseQuestion],
    journal: Journal,
    limits: Limits = COURSE_LIMITS,
    workers: int = 2,
    *,
    protection: str | None = None,
) -> list[Example]:
    """Published programs that run to their answers, the same ones each time that the journal is asked.

    Args:
        questions: With their programs.
        journal: Where it is kept which of them do; those that it does not know are run.
        limits: What each program may use.
        workers: How many run at a time.
        protection: One of `protection.PROTECTIONS`; `None` for the strongest.
    """
    keys = [_verification_key(question, limits) for question in questions]
    new = {key: question for key, question in zip(keys, questions, strict=True) if key not in journal}
    verified = verify(list(new.values()), limits, workers, protection=protection) if new else []
    for key, question in new.items():
        found = {"stage": "verification", "question": course_key(question), "verified": question in verified}
        journal.append(key, {**found, "program": question.program, "expected": question.answer})
    return course_examples(
        [question for key, question in zip(keys, questions, strict=True) if journal[key].get("verified")]
    )


def _verification_key(question: CourseQuestion, limits: Limits) -> str:
    told = json.dumps(["verification", question.program, question.answer, dataclasses.asdict(limits)])
    return hashlib.blake2b(told.encode(), digest_size=16).hexdigest()
