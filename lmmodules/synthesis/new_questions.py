"""New questions of a course: a model goes on with a numbered list of those there are."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from lmmodules.errors import InputError
from lmmodules.synthesis.client import Client, Decoding
from lmmodules.synthesis.embedding import Embedder
from lmmodules.synthesis.questions import Question
from lmmodules.synthesis.retrieval import NEAR_DUPLICATE

NUMBER = re.compile(r"^\s*\d+[.)]\s*", re.M)
NEW_QUESTION_TOKENS = 150


@dataclass(frozen=True)
class NewQuestion:
    """A question that a model made up.

    Attributes:
        text: In words.
        novelty: One minus the cosine to the most similar question there was.
        nearest: That question.
        duplicate: Whether it is that question, word for word or but for trifles, or one made up before.
    """

    text: str
    novelty: float
    nearest: str
    duplicate: bool


def numbered_list(questions: Sequence[str]) -> str:
    """A prompt that ends with the number of the question to come.

    Args:
        questions: Those before it.

    Source:
        Drori et al. 2022, on generating questions; the released code has no script for it.
    """
    lines = [f"{number}. {' '.join(question.split())}" for number, question in enumerate(questions, start=1)]
    return "\n".join([*lines, f"{len(questions) + 1}."])


def continued(completion: str) -> str:
    """The question that was written behind a number; it ends where the next number begins, or an empty line.

    Args:
        completion: Of a `numbered_list`.
    """
    text = completion.lstrip()
    if following := NUMBER.search(text):
        text = text[: following.start()]
    return " ".join(text.split("\n\n", 1)[0].split())


def new_questions(
    questions: Sequence[Question],
    client: Client,
    embedder: Embedder,
    count: int,
    *,
    listed: int = 20,
    temperature: float = 0.7,
    seed: int = 0,
) -> list[NewQuestion]:
    """Have questions made up, each behind a list of its own.

    Args:
        questions: Of one course.
        client: The model.
        embedder: Tells how similar questions are.
        count: How many to make.
        listed: Most questions in a list; each list is a random part of the course in random order.
        temperature: Of the model.
        seed: Of the lists and of what the model draws.

    Raises:
        InputError: When there is no question to go on from, or a number is out of range.
    """
    if not questions:
        raise InputError("`new_questions` needs questions to go on from; give them by `course=FILE.csv`")
    for name, value in (("new_questions", count), ("listed", listed)):
        if value < 1:
            raise InputError(f"`{name}` must be at least 1, but is {value}; use `{name}=5`")
    draws = random.Random(seed)
    texts = [question.text for question in questions]
    written: list[str] = []
    for number in range(count):
        chosen = draws.sample(texts, min(listed, len(texts)))
        decoding = Decoding(NEW_QUESTION_TOKENS, temperature, stop=(f"\n{len(chosen) + 2}",), seed=seed + number)
        while len(chosen) > 1 and not client.fits(numbered_list(chosen), decoding):
            chosen = chosen[: len(chosen) // 2]
            decoding = Decoding(NEW_QUESTION_TOKENS, temperature, stop=(f"\n{len(chosen) + 2}",), seed=seed + number)
        written.append(continued(client.complete([numbered_list(chosen)], decoding)[0]))
    return _compared([text for text in written if text], texts, embedder)


def _compared(written: Sequence[str], texts: Sequence[str], embedder: Embedder) -> list[NewQuestion]:
    if not written:
        return []
    vectors = embedder([*texts, *written])
    found = []
    for number, text in enumerate(written):
        here = len(texts) + number
        cosines = vectors[:here] @ vectors[here]
        known = cosines[: len(texts)]
        at = int(known.argmax())
        duplicate = float(cosines.max()) > NEAR_DUPLICATE or _plain(text) in map(_plain, [*texts, *written[:number]])
        found.append(NewQuestion(text, 1 - float(known[at]), texts[at], duplicate))
    return found


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))
