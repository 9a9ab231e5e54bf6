"""The losses of COCO-LM on held-out text, and the cosines of its views."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lmmodules.errors import InputError
from lmmodules.evaluation.correction import Correction, cosine_table
from lmmodules.models import Sinusoidal, Transformer
from lmmodules.objectives import CausalLM, CocoLM
from lmmodules.objectives.two_views import encode_apart

V, B, T, CROP = 13, 4, 8, 6


def backbone(*, causal: bool = False) -> Transformer:
    return Transformer(vocab_size=V, hidden_size=16, num_layers=2, num_heads=2, position=Sinusoidal(), causal=causal)


def batches(number: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)

    def ids(*shape: int) -> torch.Tensor:
        return torch.randint(4, V, shape, generator=generator)

    made = []
    for _ in range(number):
        labels = torch.full((B, T), -100)
        labels[:, 2:4] = ids(B, 2)
        made.append(
            {
                "input_ids": ids(B, T),
                "labels": labels,
                "draws": torch.rand(B, T, generator=generator, dtype=torch.float64),
                "crop_ids": ids(B, CROP),
            }
        )
    return made


def data(made: list[dict[str, torch.Tensor]]) -> Any:
    return SimpleNamespace(setup=lambda stage: None, val_dataloader=lambda: made)


@pytest.fixture
def objective() -> CocoLM:
    torch.manual_seed(0)
    return CocoLM(backbone(), scl=False).eval()


def test_cosines_by_hand() -> None:
    texts, crops = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[4.0, 3.0], [0.0, 2.0]])
    torch.testing.assert_close(cosine_table(texts, crops), torch.tensor([[0.96, 0.8], [0.8, 0.0]]))


def test_pairs_one_by_one(objective: CocoLM) -> None:
    made = batches(2)
    figures = Correction()(objective, data(made))
    positive, unrelated, nearest = [], [], []
    with torch.no_grad():
        for batch in made:
            text, _ = objective.corrupt(batch)  # type: ignore[arg-type]
            hidden, crops = encode_apart(objective.backbone, batch, text.input_ids)  # type: ignore[arg-type]
            first = hidden.view(B, T, -1)[:, 0].double().numpy()
            crop = crops.double().numpy()
            for i in range(B):
                row = [first[i] @ c / np.linalg.norm(first[i]) / np.linalg.norm(c) for c in crop]
                positive.append(row[i])
                unrelated += row[:i] + row[i + 1 :]
                nearest.append(int(np.argmax(row)) == i)
    assert figures["positive_pairs"] == pytest.approx(np.mean(positive), abs=1e-6)
    assert figures["unrelated_pairs"] == pytest.approx(np.mean(unrelated), abs=1e-6)
    assert figures["nearest"] == np.mean(nearest)


def test_the_most_frequent_of_the_replaced(objective: CocoLM) -> None:
    made = batches(3)
    for batch in made:
        batch["labels"][batch["labels"] != -100] = 7
    assert Correction()(objective, data(made))["most_frequent_token"] == 1.0


def test_it_stops_where_it_is_told(objective: CocoLM) -> None:
    made = batches(3)
    assert Correction(max_batches=1)(objective, data(made)) == Correction()(objective, data(made[:1]))


def test_bad_input(objective: CocoLM) -> None:
    with pytest.raises(InputError, match="`max_batches` must be at least 1, but is 0"):
        Correction(max_batches=0)
    with pytest.raises(InputError, match="holds a `CausalLM`; use `evaluation=perplexity`"):
        Correction()(CausalLM(backbone(causal=True)), data([]))
    with pytest.raises(InputError, match="text that is held out, but there is none"):
        Correction()(objective, data([]))
