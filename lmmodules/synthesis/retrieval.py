"""Which solved questions are shown with one that is not solved yet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmmodules.errors import InputError
from lmmodules.synthesis.embedding import Embedder, Vectors
from lmmodules.synthesis.questions import Example, Question

NEAR_DUPLICATE = 0.99
"""Cosine above which two questions are taken for one."""
ORDERS = ("nearest_first", "nearest_last")
"""How examples stand in a prompt: the nearest far from the question, as in the paper, or right before it."""


class Retrieval:
    """The solved questions of the same course, by how similar they are.

    What must not be shown is left out: the question itself, other versions of it, and near-duplicates.

    Args:
        examples: Questions whose programs are known to be right.
        embedder: Tells how similar questions are.
        order: One of `ORDERS`.

    Raises:
        InputError: When there is no such order.

    Source:
        Drori et al. 2022; `code/embedding.py` and `code/few-shot.py` in the repository idrori/mathQ.

    Differences:
        Of equally similar questions none is lost: there a similarity is the key of a dictionary. Near-duplicates are
        left out here.
    """

    def __init__(self, examples: Sequence[Example], embedder: Embedder, order: str = "nearest_first") -> None:
        if order not in ORDERS:
            raise InputError(f"`order` must be one of {', '.join(ORDERS)}, but is {order}; use `order=nearest_first`")
        self.examples = list(examples)
        self.order = order
        self._embedder = embedder

    def __call__(self, questions: Sequence[Question]) -> list[list[Example]]:
        """Examples for each question, the nearest first; how many of them are shown is for others to say.

        Args:
            questions: To be solved.
        """
        if not self.examples or not questions:
            return [[] for _ in questions]
        texts = [question.text for question in questions]
        vectors = self._embedder([*texts, *(example.question.text for example in self.examples)])
        similarities = vectors[: len(texts)] @ vectors[len(texts) :].T  # (Q, E)
        return [
            [self.examples[at] for at in nearest(row) if self._may_be_shown(self.examples[at], question, row[at])]
            for question, row in zip(questions, similarities, strict=True)
        ]

    def arranged(self, examples: Sequence[Example]) -> list[Example]:
        """Examples as they stand in a prompt.

        Args:
            examples: The nearest first.
        """
        return list(examples) if self.order == "nearest_first" else list(examples)[::-1]

    @staticmethod
    def _may_be_shown(example: Example, question: Question, similarity: float) -> bool:
        shown = example.question
        if shown.key == question.key or (shown.source and shown.source == question.source):
            return False
        in_course = not question.course or shown.course == question.course
        return in_course and similarity <= NEAR_DUPLICATE


def nearest(similarities: Vectors) -> list[int]:
    """Places in order of decreasing similarity, equal ones in the order in which they stand.

    Args:
        similarities: (E,).
    """
    order: list[int] = np.argsort(-similarities, kind="stable").tolist()
    return order
