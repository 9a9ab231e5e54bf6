"""Neighbours by vectors made by hand, and what must not be shown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from lmmodules.errors import InputError
from lmmodules.synthesis import Example, NgramEmbedder, Question
from lmmodules.synthesis.embedding import Vectors, unit_length
from lmmodules.synthesis.retrieval import Retrieval, nearest

VECTORS = {
    "target": (1.0, 0.0),
    "far": (0.0, 1.0),
    "near": (0.9, 0.435),
    "middle": (0.7, 0.714),
    "equal": (0.7, 0.714),
    "copy": (1.0, 0.01),
    "foreign": (0.95, 0.31),
    "version": (0.8, 0.6),
}


def by_hand(texts: Sequence[str]) -> Vectors:
    return unit_length(np.array([VECTORS[text] for text in texts]))


def example(text: str, course: str = "c", source: str = "") -> Example:
    return Example(Question(text, text, "1", course, source=source), "print(1)")


POOL = [
    example("far"),
    example("middle"),
    example("equal"),
    example("copy"),
    example("near"),
    example("target"),
    example("foreign", course="d"),
    example("version", source="one book"),
]
TARGET = Question("target", "target", "1", "c", source="one book")


def names(examples: Sequence[Example]) -> list[str]:
    return [one.question.key for one in examples]


def test_the_nearest_first_and_nothing_that_gives_it_away() -> None:
    # Neither itself nor its copy (cosine 0.99995), nor another version of it, nor what is of another course; and of
    # two that are equally near none is lost.
    [found] = Retrieval(POOL, by_hand)([TARGET])
    assert names(found) == ["near", "middle", "equal", "far"]


def test_of_any_course_for_a_question_without_one() -> None:
    [found] = Retrieval(POOL, by_hand)([Question("question", "target")])
    assert names(found) == ["foreign", "near", "version", "middle", "equal", "far"]


def test_several_at_once() -> None:
    found = Retrieval(POOL, by_hand)([TARGET, Question("far", "far", "1", "c")])
    assert names(found[1]) == ["middle", "equal", "version", "near", "copy", "target"]


def test_nothing_to_show() -> None:
    assert Retrieval([], by_hand)([TARGET, TARGET]) == [[], []]
    assert Retrieval(POOL, by_hand)([]) == []


def test_the_order_in_a_prompt() -> None:
    shown = POOL[:3]
    assert names(Retrieval([], by_hand).arranged(shown)) == ["far", "middle", "equal"]
    assert names(Retrieval([], by_hand, "nearest_last").arranged(shown)) == ["equal", "middle", "far"]
    with pytest.raises(InputError, match="`order` must be one of nearest_first, nearest_last, but is shuffled"):
        Retrieval([], by_hand, "shuffled")


def test_equal_similarities_keep_their_order() -> None:
    assert nearest(np.array([0.5, 0.9, 0.5, 0.9], dtype=np.float32)) == [1, 3, 0, 2]


class TestNgrams:
    TEXTS = (
        "What is the derivative of x^2?",
        "Find the derivative of x^3.",
        "A coin is tossed 3 times. How probable are 2 heads?",
        "A die is rolled twice. How probable is a sum of 7?",
    )

    def test_unit_length_and_deterministic(self) -> None:
        vectors = NgramEmbedder()(self.TEXTS)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        np.testing.assert_array_equal(vectors, NgramEmbedder()(self.TEXTS))

    def test_alike_is_near(self) -> None:
        vectors = NgramEmbedder()(self.TEXTS)
        assert (vectors @ vectors.T - 2 * np.eye(4)).argmax(1).tolist() == [1, 0, 3, 2]

    def test_case_and_spaces_do_not_count(self) -> None:
        vectors = NgramEmbedder()(["What is 1 + 1?", "what IS  1+1 ?", "something else"])
        assert vectors[0] @ vectors[1] == pytest.approx(1, abs=1e-6)

    def test_an_empty_text_is_near_to_nothing(self) -> None:
        assert not NgramEmbedder()(["", "a word"])[0].any()

    def test_by_hand(self) -> None:
        # One n-gram each, " a" and so on, in places of their own; `a` stands in both texts.
        vectors = NgramEmbedder((3, 3), 1 << 16)(["a", "a b"])
        common, rare = 1 + np.log(3 / 3), 1 + np.log(3 / 2)
        expected = common / np.hypot(common, rare)
        assert vectors[0] @ vectors[1] == pytest.approx(expected, abs=1e-6)

    def test_sizes_out_of_order(self) -> None:
        with pytest.raises(InputError, match="`sizes` must be the shortest and the longest"):
            NgramEmbedder((4, 3))
