from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lmmodules.batch import IGNORED, FimBatch, Section
from lmmodules.errors import InputError
from lmmodules.evaluation import generate
from lmmodules.models import Transformer
from lmmodules.objectives import CausalLM
from lmmodules.objectives.fim import FIM
from lmmodules.parallel import Totals

VOCAB_SIZE = 20
NAMES = {
    Section.UNTOUCHED: "left_to_right_loss",
    Section.PREFIX: "prefix_loss",
    Section.SUFFIX: "suffix_loss",
    Section.MIDDLE: "middle_loss",
    Section.END: "end_loss",
}


def backbone(causal: bool = True) -> Transformer:
    torch.manual_seed(0)
    return Transformer(vocab_size=VOCAB_SIZE, hidden_size=16, num_layers=2, num_heads=2, causal=causal).double()


def batch(sections: Tensor | None = None) -> FimBatch:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(VOCAB_SIZE, (3, 30), generator=generator)
    labels[0, 20:] = IGNORED
    if sections is None:
        sections = torch.randint(len(Section), (3, 30), generator=generator)
    return {
        "input_ids": torch.randint(VOCAB_SIZE, (3, 30), generator=generator),
        "labels": labels,
        "sections": sections.to(torch.uint8),
    }


def test_the_loss_is_that_of_next_token_prediction() -> None:
    given = batch()
    ours, plain = FIM(backbone()), CausalLM(backbone())
    one, other = ours.losses(given), plain.losses(given)
    for name in ("loss", "accuracy"):
        assert one[name].sum.item() == pytest.approx(other[name].sum.item(), rel=1e-12)
        assert int(one[name].count) == int(other[name].count) == 80
        assert one[name].weight == other[name].weight
    one["loss"].sum.backward()
    other["loss"].sum.backward()
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        assert mine.grad is not None
        assert torch.allclose(mine.grad, theirs.grad, rtol=1e-10, atol=1e-12)


def test_sections_are_watched_apart() -> None:
    given = batch()
    objective = FIM(backbone())
    terms = objective.losses(given)
    losses = F.cross_entropy(objective(given).flatten(0, 1), given["labels"].flatten(), reduction="none").reshape(3, 30)
    counted = given["labels"] != IGNORED
    for section, name in NAMES.items():
        chosen = counted & (given["sections"] == section)
        assert terms[name].sum.item() == pytest.approx(losses[chosen].sum().item(), rel=1e-12)
        assert int(terms[name].count) == int(chosen.sum())
        assert terms[name].weight == 0
    sentinels = losses[counted & (given["sections"] == Section.SENTINEL)].sum().item()
    assert sentinels > 1
    assert sum(terms[name].sum.item() for name in NAMES.values()) + sentinels == pytest.approx(terms["loss"].sum.item())


def test_only_the_whole_is_optimised() -> None:
    totals = Totals()
    terms = FIM(backbone()).losses(batch())
    totals.add(terms)
    assert totals.collect()["loss"] == pytest.approx((terms["loss"].sum / 80).item())


def test_a_batch_without_a_section_has_the_same_terms() -> None:
    untouched = FIM(backbone()).losses(batch(torch.zeros(3, 30)))
    assert untouched.keys() == FIM(backbone()).losses(batch()).keys()
    assert int(untouched["middle_loss"].count) == 0
    assert untouched["left_to_right_loss"].sum.item() == pytest.approx(untouched["loss"].sum.item())


def test_label_smoothing_is_for_training() -> None:
    objective = FIM(backbone(), label_smoothing=0.2)
    smoothed = objective.losses(batch())["loss"].sum
    assert objective.eval().losses(batch())["loss"].sum.item() == pytest.approx(
        FIM(backbone()).losses(batch())["loss"].sum.item()
    )
    assert not np.isclose(smoothed.item(), objective.losses(batch())["loss"].sum.item())


def test_a_bidirectional_backbone_is_refused() -> None:
    with pytest.raises(InputError, match="`FIM` needs a causal backbone"):
        FIM(backbone(causal=False))


@pytest.mark.slow
def test_a_model_learns_where_to_stop() -> None:
    """Documents that count: prefix and suffix determine the middle, and its end."""
    sentinels, end, first = (1, 2, 3), 0, 4  # <PRE>, <SUF>, <MID>; numbers from 4 on
    generator = np.random.default_rng(0)

    def sample() -> tuple[list[int], list[int]]:
        start, size = int(generator.integers(first, first + 8)), int(generator.integers(5, 8))
        number = list(range(start, start + size))
        left = int(generator.integers(1, size - 1))
        right = int(generator.integers(left, size))
        pre, suf, mid = sentinels
        return [end, pre, suf, *number[right:], mid, *number[:left]], number[left:right]

    torch.manual_seed(0)
    model = FIM(Transformer(vocab_size=VOCAB_SIZE, hidden_size=64, num_layers=2, num_heads=4, causal=True))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(250):
        rows = [(prompt, [*middle, end]) for prompt, middle in (sample() for _ in range(64))]
        ids = torch.zeros(64, 20, dtype=torch.int64)
        labels = torch.full((64, 20), IGNORED)
        for row, (prompt, middle) in enumerate(rows):
            text = torch.tensor(prompt + middle)
            ids[row, : len(text) - 1] = text[:-1]
            labels[row, : len(text) - 1] = text[1:]
        terms = model.losses({"input_ids": ids, "labels": labels, "sections": torch.zeros(64, 20, dtype=torch.uint8)})
        optimizer.zero_grad()
        (terms["loss"].sum / terms["loss"].count).backward()
        optimizer.step()
    asked = [sample() for _ in range(200)]
    written = generate(model, [prompt for prompt, _ in asked], max_new_tokens=9, greedy=True, stop_ids=[end])
    assert np.mean([found == middle for found, (_, middle) in zip(written, asked, strict=True)]) > 0.95
