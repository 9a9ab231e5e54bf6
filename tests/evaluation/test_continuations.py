"""Likelihoods of continuations against whole forwards, one text at a time."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lmmodules.errors import InputError
from lmmodules.evaluation.continuations import likelihoods
from lmmodules.evaluation.generation import generate
from lmmodules.models import Alibi, LanguageModelHead, Learned, Transformer

VOCAB_SIZE, LONGEST = 30, 12
CONTEXTS = [[4, 8, 15], [23], [4, 2, 4, 2, 4, 2, 9], [5, 6], [1]]
CONTINUATIONS = [[16, 23, 7], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], [9], [], [28, 28]]


@pytest.fixture(params=["rotary", "alibi", "learned"])
def writer(request: pytest.FixtureRequest) -> SimpleNamespace:
    torch.manual_seed(0)
    position = {"rotary": None, "alibi": Alibi(2), "learned": Learned(LONGEST, 16)}[request.param]
    backbone = Transformer(
        vocab_size=VOCAB_SIZE,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        causal=True,
        position=position,
        initializer_std=0.6,
    )
    return SimpleNamespace(backbone=backbone.double().eval(), head=LanguageModelHead(16, VOCAB_SIZE).double().eval())


def by_itself(writer: SimpleNamespace, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    text = context + continuation
    with torch.inference_mode():
        hidden = writer.backbone(torch.tensor([text]))[0]
        logarithms = writer.head(hidden, writer.backbone.token_embedding.weight).log_softmax(-1)
    places = range(len(context) - 1, len(text) - 1)
    nats = sum(float(logarithms[place, text[place + 1]]) for place in places)
    return nats, all(int(logarithms[place].argmax()) == text[place + 1] for place in places)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_each_is_scored_as_by_itself(writer: SimpleNamespace, batch_size: int) -> None:
    found = likelihoods(writer, CONTEXTS, CONTINUATIONS, batch_size=batch_size)
    for likelihood, context, continuation in zip(found, CONTEXTS, CONTINUATIONS, strict=True):
        nats, is_likeliest = by_itself(writer, context, continuation)
        assert likelihood.nats == pytest.approx(nats, rel=1e-10, abs=1e-12)
        assert likelihood.is_likeliest == is_likeliest


def test_what_is_written_greedily_is_likeliest(writer: SimpleNamespace) -> None:
    written = generate(writer, CONTEXTS[:1], max_new_tokens=5, greedy=True)
    other = [written[0][0], *written[0][2:], (written[0][-1] + 1) % VOCAB_SIZE]
    found = likelihoods(writer, CONTEXTS[:1] * 2, [*written, other], batch_size=2)
    assert [likelihood.is_likeliest for likelihood in found] == [True, False]


def test_nothing_is_certain(writer: SimpleNamespace) -> None:
    assert likelihoods(writer, [], [], batch_size=3) == []
    assert likelihoods(writer, [[1]], [[]], batch_size=3) == [(0.0, True)]


def test_a_context_of_nothing_is_refused(writer: SimpleNamespace) -> None:
    with pytest.raises(InputError, match="`contexts` must have at least one token each, but one is empty"):
        likelihoods(writer, [[1], []], [[2], [3]], batch_size=2)


def test_a_text_beyond_the_positions_is_refused(writer: SimpleNamespace) -> None:
    text = [1] * (LONGEST + 1), [2]  # of which the last is not read
    if writer.backbone.max_length is None:
        assert len(likelihoods(writer, [text[0]], [text[1]], batch_size=1)) == 1
        return
    with pytest.raises(InputError, match="`max_length` is 12, but a sequence has 13 tokens"):
        likelihoods(writer, [text[0]], [text[1]], batch_size=1)
