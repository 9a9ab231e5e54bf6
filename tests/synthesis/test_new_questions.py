"""Questions that a model makes up, how new they are, and a picture of those there are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lmmodules.errors import InputError
from lmmodules.synthesis import NgramEmbedder, Question
from lmmodules.synthesis.clusters import draw_clusters, neighbours_of_the_course, principal_components
from lmmodules.synthesis.embedding import unit_length
from lmmodules.synthesis.new_questions import continued, new_questions, numbered_list

QUESTIONS = [
    Question("c/1", "What is the derivative of x^2?"),
    Question("c/2", "Find\nthe integral of sin(x)."),
    Question("c/3", "How many primes are below 50?"),
]


def test_a_numbered_list_ends_with_the_number_to_come() -> None:
    assert numbered_list([one.text for one in QUESTIONS]) == (
        "1. What is the derivative of x^2?\n2. Find the integral of sin(x).\n3. How many primes are below 50?\n4."
    )


@pytest.mark.parametrize(
    ("completion", "question"),
    [
        (" Find the sum of 1 to 10.\n5. Next?", "Find the sum of 1 to 10."),
        (" Find the sum\nof 1 to 10.\n 5) Next?", "Find the sum of 1 to 10."),
        (" What is 3.5 times 2?", "What is 3.5 times 2?"),
        (" One?\n\nSomething else", "One?"),
        ("\n5. Next?", ""),
        ("", ""),
    ],
)
def test_it_ends_where_the_next_number_begins(completion: str, question: str) -> None:
    assert continued(completion) == question


def test_novelty_and_duplicates(scripted) -> None:
    said = iter(
        [
            " How many primes are below 50?\n5. x",
            " how many primes, are below 50",
            " A coin is tossed 7 times; how probable are 3 heads?",
            " A coin is tossed 7 times; how probable are 3 heads?",
            "",
        ]
    )
    client = scripted(lambda prompt: next(said))
    made = new_questions(QUESTIONS, client, NgramEmbedder(), 5)
    assert [one.duplicate for one in made] == [True, True, False, True]
    assert [one.nearest for one in made[:2]] == [QUESTIONS[2].text] * 2
    assert made[0].novelty == pytest.approx(0, abs=1e-6)
    assert made[2].novelty > 0.5


def test_lists_are_drawn(scripted) -> None:
    many = [Question(str(n), f"Question {n}?") for n in range(30)]
    client = scripted(lambda prompt: " A new one?")
    new_questions(many, client, NgramEmbedder(), 3, listed=4, seed=1)
    assert [prompt.count("\n") for prompt in client.asked] == [4, 4, 4]
    assert len(set(client.asked)) == 3
    again = scripted(lambda prompt: " A new one?")
    new_questions(many, again, NgramEmbedder(), 3, listed=4, seed=1)
    assert again.asked == client.asked
    other = scripted(lambda prompt: " A new one?")
    new_questions(many, other, NgramEmbedder(), 3, listed=4, seed=2)
    assert other.asked != client.asked


def test_a_list_that_leaves_no_room_is_halved(scripted) -> None:
    client = scripted(lambda prompt: " A new one?", room=80)
    new_questions(QUESTIONS, client, NgramEmbedder(), 1)
    assert len(client.asked[0]) <= 80


def test_refusals(scripted) -> None:
    client = scripted(pytest.fail)
    with pytest.raises(InputError, match="`new_questions` needs questions to go on from"):
        new_questions([], client, NgramEmbedder(), 1)
    with pytest.raises(InputError, match="`new_questions` must be at least 1, but is 0"):
        new_questions(QUESTIONS, client, NgramEmbedder(), 0)


class TestClusters:
    def test_the_plane_of_most_variance(self) -> None:
        draws = np.random.default_rng(0)
        flat = draws.normal(size=(40, 2)) * [3.0, 1.0]
        directions = np.linalg.qr(draws.normal(size=(6, 6)))[0][:2]
        vectors = (flat @ directions).astype(np.float32)
        places, share = principal_components(vectors)
        assert share == pytest.approx(1, abs=1e-6)
        expected = np.linalg.eigvalsh(np.cov(flat.T))[::-1]
        np.testing.assert_allclose(places.var(0, ddof=1), expected, rtol=1e-4)
        np.testing.assert_allclose(
            np.linalg.norm(places[:, None] - places, axis=2), np.linalg.norm(flat[:, None] - flat, axis=2), atol=1e-4
        )
        np.testing.assert_array_equal(places, principal_components(vectors)[0])

    def test_neighbours(self) -> None:
        vectors = unit_length(np.array([[1.0, 0], [0.9, 0.1], [0, 1.0], [0.1, 0.9], [0.3, 0.7]]))
        assert neighbours_of_the_course(vectors, ["a", "a", "b", "b", "a"]) == pytest.approx(4 / 5)

    def test_a_picture(self, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        vectors = NgramEmbedder()([one.text for one in QUESTIONS])
        picture = draw_clusters(vectors, ["a", "b", "a"], tmp_path / "deep" / "clusters.png")
        assert picture.read_bytes().startswith(b"\x89PNG")
