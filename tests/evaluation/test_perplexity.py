"""Perplexity over held-out text is a sum over a count, however the batches fall."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from lmmodules.batch import IGNORED, CausalBatch
from lmmodules.errors import InputError
from lmmodules.evaluation import Perplexity
from lmmodules.models import Transformer
from lmmodules.objectives import CausalLM, Objective
from lmmodules.parallel import Term

V = 23


class HeldOut:
    """Batches in the place of a data module's validation part."""

    def __init__(self, batches: list[dict[str, Tensor]]) -> None:
        self.batches = batches
        self.stages: list[str] = []
        self.read = 0

    def setup(self, stage: str) -> None:
        self.stages.append(stage)

    def val_dataloader(self) -> Iterator[dict[str, Tensor]]:
        for batch in self.batches:
            self.read += 1
            yield batch

    def unigram_entropy(self) -> float:
        return 2.75


def batch(rows: int, length: int, ignored: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(V, (rows, length), generator=generator)
    labels.view(-1)[:ignored] = IGNORED
    return {"input_ids": torch.randint(V, (rows, length), generator=generator), "labels": labels}


@pytest.fixture
def model() -> CausalLM:
    torch.manual_seed(0)
    network = Transformer(vocab_size=V, hidden_size=16, num_layers=1, num_heads=2, causal=True, initializer_std=0.4)
    return CausalLM(network).eval()


UNEVEN = [batch(4, 12, 0, 0), batch(1, 3, 2, 1), batch(3, 7, 20, 2), batch(2, 5, 10, 3)]  # 48, 1, 1 and 0 targets


def by_hand(model: CausalLM, batches: list[dict[str, Tensor]]) -> tuple[float, int, int]:
    total, count, hits = 0.0, 0, 0
    for one in batches:
        rows = torch.log_softmax(model(one).detach().double(), -1)
        for row, label in zip(rows.flatten(0, 1), one["labels"].flatten().tolist(), strict=True):
            if label != IGNORED:
                total, count, hits = total - row[label].item(), count + 1, hits + int(row.argmax() == label)
    return total, count, hits


def test_it_is_the_sum_over_the_count_of_uneven_batches(model: CausalLM) -> None:
    data: Any = HeldOut(UNEVEN)
    figures = Perplexity()(model, data)
    total, count, hits = by_hand(model, UNEVEN)
    assert count == figures["targets"] == 48 + 1 + 1
    assert figures["loss"] == pytest.approx(total / count, rel=1e-6)
    assert figures["accuracy"] == pytest.approx(hits / count)
    assert figures["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-6)
    assert figures["unigram_entropy"] == 2.75
    assert data.stages == ["validate"]
    means = [by_hand(model, [one])[0] / by_hand(model, [one])[1] for one in UNEVEN[:3]]
    assert abs(sum(means) / 3 - total / count) > 0.01, "a mean of means would be another number"


def test_how_targets_are_divided_into_batches_is_no_matter(model: CausalLM) -> None:
    whole = batch(6, 8, 5, 9)
    parts = [{name: tensor[rows] for name, tensor in whole.items()} for rows in (slice(1), slice(1, 4), slice(4, 6))]
    one: Any = HeldOut([whole])
    several: Any = HeldOut(parts)
    expected, found = Perplexity()(model, one), Perplexity()(model, several)
    assert found == pytest.approx(expected, rel=1e-6)


def test_an_objective_without_a_loss_per_token_is_refused(model: CausalLM) -> None:
    model.perplexity_term = None
    data: Any = HeldOut(UNEVEN)
    with pytest.raises(InputError, match=r"`evaluation=perplexity` needs a loss per token.*use `evaluation=classific"):
        Perplexity()(model, data)


def test_only_so_many_batches_are_read(model: CausalLM) -> None:
    data: Any = HeldOut(UNEVEN)
    figures = Perplexity(max_batches=1)(model, data)
    total, count, _ = by_hand(model, UNEVEN[:1])
    assert figures["targets"] == count == 48
    assert figures["loss"] == pytest.approx(total / count, rel=1e-6)


@pytest.mark.parametrize("number", [0, -1])
def test_no_batch_at_all_is_refused(number: int) -> None:
    with pytest.raises(InputError, match=f"`max_batches` must be at least 1, but is {number}"):
        Perplexity(max_batches=number)


def test_nothing_is_trained(model: CausalLM) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    data: Any = HeldOut(UNEVEN)
    first = Perplexity()(model, data)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert Perplexity()(model, data) == first


class Detection(Objective):
    """Two terms, of which the second is the one in nats per token."""

    batch_type = CausalBatch
    perplexity_term: ClassVar[str] = "masked"

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Term]:
        number = batch["labels"].numel()
        return {
            "detection": Term(torch.tensor(3.0 * number), number, weight=50.0),
            "masked": Term(torch.tensor(2.0), 4),
        }


def test_perplexity_is_that_of_the_objectives_own_term() -> None:
    network = Transformer(vocab_size=V, hidden_size=16, num_layers=1, num_heads=2, causal=True)
    data: Any = HeldOut(UNEVEN)
    figures = Perplexity()(Detection(network), data)
    assert figures["masked"] == pytest.approx(0.5)
    assert figures["detection"] == pytest.approx(3.0)
    assert figures["loss"] == pytest.approx(50 * 3.0 + 0.5)
    assert figures["perplexity"] == pytest.approx(math.exp(0.5))
    assert figures["targets"] == 4 * len(UNEVEN), "those that perplexity is over"


def test_a_hopeless_model_has_a_finite_perplexity() -> None:
    class Hopeless(Detection):
        def losses(self, batch: dict[str, Tensor]) -> dict[str, Term]:
            return {"masked": Term(torch.tensor(1e6), 1)}

    network = Transformer(vocab_size=V, hidden_size=16, num_layers=1, num_heads=2, causal=True)
    data: Any = HeldOut(UNEVEN)
    figures = Perplexity()(Hopeless(network), data)
    assert figures["perplexity"] == math.exp(700)
    assert figures["masked"] == 1e6
