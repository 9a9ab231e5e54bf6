"""The loss is that of the program and its end, and of nothing else."""

from __future__ import annotations

import pytest
import torch

from lmmodules.batch import IGNORED
from lmmodules.evaluation.generation import generate
from lmmodules.models import Transformer
from lmmodules.objectives import ProgramSynthesis

PROMPT, PROGRAM, END = [5, 6, 7], [8, 9], 2


@pytest.fixture
def objective() -> ProgramSynthesis:
    torch.manual_seed(0)
    backbone = Transformer(vocab_size=12, hidden_size=16, num_layers=1, num_heads=2, causal=True, initializer_std=0.3)
    return ProgramSynthesis(backbone)


def batch(pad: int = 0) -> dict[str, torch.Tensor]:
    rows = [([*PROMPT, *PROGRAM], [IGNORED, IGNORED, *PROGRAM, END]), ([5, 9, pad, pad, pad], [9, END, *[IGNORED] * 3])]
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    ids, labels = (torch.tensor([row[part] for row in rows]) for part in (0, 1))
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


def test_it_is_the_mean_over_the_tokens_of_all_programs(objective: ProgramSynthesis) -> None:
    given = batch()
    term = objective.losses(given)["loss"]
    objective.requires_grad_(False)
    logits = objective.head(objective.hidden_states(given), objective.backbone.token_embedding.weight).double()
    asked = [(0, 2, 8), (0, 3, 9), (0, 4, END), (1, 0, 9), (1, 1, END)]
    expected = sum(-logits[row, place].log_softmax(-1)[token] for row, place, token in asked)
    assert float(term.count) == 5
    assert term.sum.item() == pytest.approx(expected.item(), rel=1e-5)


def test_no_gradient_reaches_the_logits_of_the_question_or_of_padding(objective: ProgramSynthesis) -> None:
    given = batch()
    states: list[torch.Tensor] = []

    def keep(hidden: torch.Tensor, labels: torch.Tensor, whole=objective.cross_entropy):
        hidden.retain_grad()
        states.append(hidden)
        return whole(hidden, labels)

    objective.cross_entropy = keep
    term = objective.losses(given)["loss"]
    (term.sum / term.count).backward()
    gradient = states[0].grad.view(2, 5, -1).abs().sum(-1)
    assert ((gradient > 0) == (given["labels"] != IGNORED)).all()


def test_written_exactly_is_what_greedy_decoding_writes(objective: ProgramSynthesis) -> None:
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.03)
    given = batch()
    objective.eval()
    assert float(objective.losses(given)["written_exactly"].sum) < 2
    assert "written_exactly" not in objective.train().losses(given)
    for _ in range(60):
        loss = objective.losses(given)["loss"]
        optimizer.zero_grad()
        (loss.sum / loss.count).backward()
        optimizer.step()
    term = objective.eval().losses(given)["written_exactly"]
    assert (float(term.sum), float(term.count), term.weight) == (2.0, 2.0, 0.0)
    written = generate(objective, [PROMPT, [5]], max_new_tokens=5, greedy=True, stop_ids=[END])
    assert written == [PROGRAM, [9]]


def test_the_end_is_learned_where_padding_is_the_same_token(objective: ProgramSynthesis) -> None:
    for pad in (0, END):
        assert float(objective.losses(batch(pad))["loss"].sum) == pytest.approx(
            float(objective.losses(batch())["loss"].sum), rel=1e-6
        )


def test_a_batch_in_parts_has_the_same_sums(objective: ProgramSynthesis) -> None:
    given = batch()
    whole = objective.losses(given)["loss"]
    parts = [
        objective.losses({name: tensor[row : row + 1] for name, tensor in given.items()})["loss"] for row in (0, 1)
    ]
    assert float(sum(part.sum for part in parts)) == pytest.approx(float(whole.sum), rel=1e-6)
    assert sum(int(part.count) for part in parts) == int(whole.count)
