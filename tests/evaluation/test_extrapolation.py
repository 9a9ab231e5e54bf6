"""Every target once at every length, and the arithmetic of both ways of scoring."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lmmodules.errors import InputError
from lmmodules.evaluation.extrapolation import Extrapolation, windows
from lmmodules.models import Alibi, Learned, Rotary, Transformer
from lmmodules.objectives import CausalLM, MaskedLM

V = 29


class Store:
    """A token store of a few tokens."""

    def __init__(self, number: int) -> None:
        self.tokens = np.random.default_rng(0).integers(V, size=number).astype(np.uint16)

    def __len__(self) -> int:
        return len(self.tokens)


def held_out(number: int = 101) -> Any:
    return SimpleNamespace(validation_samples=SimpleNamespace(store=Store(number)), unigram_entropy=lambda: 3.25)


def model(position: Any = None, causal: bool = True) -> Any:
    torch.manual_seed(0)
    network = Transformer(
        vocab_size=V,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        causal=causal,
        position=position or Alibi(2),
        initializer_std=0.4,
    )
    return (CausalLM if causal else MaskedLM)(network).eval()


def spans(num_targets: int, length: int, stride: int) -> list[tuple[int, int, int]]:
    """First token, last target and number of scored targets of every window."""
    return [
        (int(start), int(start) + group.size, group.scored)
        for group in windows(num_targets, length, stride)
        for start in group.starts
    ]


def test_the_papers_example() -> None:
    """Eight targets in windows of four: two passes side by side, five with a window that moves by one."""
    assert spans(8, 4, 4) == [(0, 4, 4), (4, 8, 4)]
    assert spans(8, 4, 1) == [(0, 4, 4), (1, 5, 1), (2, 6, 1), (3, 7, 1), (4, 8, 1)]


@pytest.mark.parametrize("num_targets", [1, 4, 8, 10, 13, 40])
@pytest.mark.parametrize("length", [1, 3, 4, 8, 50])
def test_every_target_is_scored_once(num_targets: int, length: int) -> None:
    for stride in range(1, length + 1):
        scored = [
            target for _, end, number in spans(num_targets, length, stride) for target in range(end - number, end)
        ]
        assert scored == list(range(num_targets))
        for start, end, _ in spans(num_targets, length, stride):
            assert 0 <= start < end <= num_targets
            assert end - start <= length


@pytest.mark.parametrize("stride", [1, 3, 7, 16])
@pytest.mark.parametrize("tokens_per_batch", [1, 50, 10000])
def test_losses_by_hand(stride: int, tokens_per_batch: int) -> None:
    objective, data = model(), held_out()
    tokens = torch.from_numpy(data.validation_samples.store.tokens.astype(np.int64))
    figures = Extrapolation([16], stride=stride, tokens_per_batch=tokens_per_batch)(objective, data)
    (row,) = figures["lengths"]
    for key, step in (("loss", 16), ("sliding_loss", stride)):
        total = 0.0
        for start, end, scored in spans(100, 16, step):
            logits = objective({"input_ids": tokens[None, start:end]}).double()
            losses = torch.nn.functional.cross_entropy(logits[0], tokens[start + 1 : end + 1], reduction="none")
            total += losses[-scored:].sum().item()
        assert row[key] == pytest.approx(total / 100, rel=1e-5)
    assert row["perplexity"] == pytest.approx(math.exp(row["loss"]))
    assert row["sliding_perplexity"] == pytest.approx(math.exp(row["sliding_loss"]))
    assert row["early_token_curse"] == pytest.approx(row["loss"] - row["sliding_loss"])
    assert (abs(row["early_token_curse"]) < 1e-6) == (stride == 16)
    assert figures["targets"] == 100
    assert figures["unigram_entropy"] == 3.25


def test_a_model_without_context_cares_for_no_length() -> None:
    objective = model()
    for block in objective.backbone.blocks:
        torch.nn.init.zeros_(block.attention.output.weight)
    rows = Extrapolation([1, 7, 100], stride=1)(objective, held_out())["lengths"]
    losses = [row["loss"] for row in rows] + [row["sliding_loss"] for row in rows]
    assert losses == pytest.approx([losses[0]] * 6, rel=1e-5)


def test_lengths_come_in_order_and_once() -> None:
    figures = Extrapolation([32, 8, 32])(model(), held_out())
    assert [row["length"] for row in figures["lengths"]] == [8, 32]
    assert set(figures["lengths"][0]) == {"length", "loss", "perplexity"}
    assert "note" not in figures
    assert json.loads(json.dumps(figures)) == figures


def test_only_so_many_targets() -> None:
    data = held_out()
    short: Any = held_out()
    short.validation_samples.store.tokens = data.validation_samples.store.tokens[:41]
    limited = Extrapolation([16], max_targets=40)(model(), data)
    assert limited == Extrapolation([16])(model(), short)
    assert limited["targets"] == 40


def test_learned_positions_are_scored_as_far_as_they_go() -> None:
    figures = Extrapolation([8, 32, 64])(model(Learned(20, 16)), held_out())
    assert [row["length"] for row in figures["lengths"]] == [8, 20]
    assert figures["note"] == "the model's positions end at 20: 32, 64 could not be scored"
    figures = Extrapolation([8, 20, 64])(model(Learned(20, 16)), held_out())
    assert [row["length"] for row in figures["lengths"]] == [8, 20]


def test_positions_without_an_end_are_read_behind_the_length_of_a_size() -> None:
    for position in (Alibi(2), Rotary()):
        free, limited = model(position), model(position)
        limited.backbone.max_length = 16
        assert Extrapolation([8, 32])(limited, held_out()) == Extrapolation([8, 32])(free, held_out())
        assert limited.backbone.max_length == 16


def test_a_window_cannot_move_by_more_than_positions_reach() -> None:
    evaluation = Extrapolation([32, 64], stride=24)
    with pytest.raises(InputError, match=r"shortest of the lengths that are scored \(20\).* but is 24; use `eval"):
        evaluation(model(Learned(20, 16)), held_out())
    assert len(evaluation(model(Learned(24, 16)), held_out())["lengths"]) == 1


def test_curves() -> None:
    evaluation = Extrapolation([8, 32], stride=4)
    figures = evaluation(model(), held_out())
    assert evaluation.curves(figures) == {
        "side by side": [(row["length"], row["perplexity"]) for row in figures["lengths"]],
        "sliding window": [(row["length"], row["sliding_perplexity"]) for row in figures["lengths"]],
    }
    plain = Extrapolation([8, 32])
    assert list(plain.curves(plain(model(), held_out()))) == ["side by side"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"lengths": []}, "`lengths` must be a list of one or more, but is "),
        ({"lengths": 64}, "`lengths` must be a list of one or more, but is 64"),
        ({"lengths": [0, 4]}, "`lengths` must be a whole number, at least 1, but is 0"),
        ({"lengths": None}, "`lengths` must be a list of one or more, but is None"),
        ({"lengths": [None]}, "`lengths` must be a whole number, at least 1, but is None"),
        ({"lengths": [64.5]}, "`lengths` must be a whole number, at least 1, but is 64.5"),
        ({"stride": 0}, "`stride` must be a whole number, at least 1, but is 0"),
        ({"max_targets": 0}, "`max_targets` must be a whole number, at least 1, but is 0"),
        ({"tokens_per_batch": 0}, "`tokens_per_batch` must be a whole number, at least 1, but is 0"),
        (
            {"lengths": [8, 16], "stride": 9},
            r"shortest of the lengths that are scored \(8\).* but is 9; use `evaluation.stride=8`",
        ),
    ],
)
def test_wrong_options(options: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Extrapolation(**options)


def test_what_cannot_be_scored() -> None:
    with pytest.raises(InputError, match="needs a causal language model, but the checkpoint is of `MaskedLM`"):
        Extrapolation([8])(model(causal=False), held_out())
    with pytest.raises(InputError, match=r"must not exceed the held-out text \(100 targets\), but one is 101"):
        Extrapolation([8, 101])(model(), held_out())
