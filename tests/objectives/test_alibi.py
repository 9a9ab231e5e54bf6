"""Train short, test long: the same tokens at every length, and gradients from the training length alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lmmodules.batch import IGNORED, CausalBatch
from lmmodules.composition import compose_config
from lmmodules.errors import InputError
from lmmodules.models import Alibi, Learned, Transformer
from lmmodules.objectives import CausalLM
from lmmodules.objectives.alibi import TrainShortTestLong, cut

B, T, V = 3, 24, 31


def backbone(**options: Any) -> Transformer:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": V, "hidden_size": 16, "num_layers": 2, "num_heads": 2}
    return Transformer(causal=True, initializer_std=0.4, **(sizes | {"position": Alibi(2)} | options))


def model(train_length: int = 6, validation_lengths: tuple[int, ...] = (6, 12, 24)) -> TrainShortTestLong:
    return TrainShortTestLong(backbone(), train_length=train_length, validation_lengths=validation_lengths)


def make_batch(**others: torch.Tensor) -> CausalBatch:
    ids = torch.randint(V, (B, T + 1), generator=torch.Generator().manual_seed(1))
    labels = ids[:, 1:].clone()
    labels[1, 5] = IGNORED
    return {"input_ids": ids[:, :-1], "labels": labels, **others}  # type: ignore[typeddict-item]


def by_pieces(objective: TrainShortTestLong, batch: CausalBatch, length: int) -> float:
    """Nats over all targets, one piece after the other."""
    plain = CausalLM(objective.backbone).eval()
    total = 0.0
    for row in range(B):
        for start in range(0, T, length):
            part: Any = {name: tensor[row : row + 1, start : start + length] for name, tensor in batch.items()}
            total += plain.losses(part)["loss"].sum.item()
    return total


@pytest.mark.parametrize("length", [6, 12, 24, 7, 1])
def test_validation_scores_the_same_tokens_in_pieces_of_every_length(length: int) -> None:
    objective, batch = model(validation_lengths=(length,)).eval(), make_batch()
    term = objective.losses(batch)[f"loss_at_{length}"]
    assert term.count == B * T - 1
    assert term.sum.item() == pytest.approx(by_pieces(objective, batch, length), rel=1e-5)
    assert term.weight == 0


def test_validation_loss_is_that_of_the_training_length() -> None:
    objective, batch = model().eval(), make_batch()
    terms = objective.losses(batch)
    assert list(terms) == ["loss", "accuracy", "loss_at_6", "loss_at_12", "loss_at_24"]
    assert terms["loss"].sum == terms["loss_at_6"].sum
    assert len({terms[f"loss_at_{length}"].sum.item() for length in (6, 12, 24)}) == 3
    objective.validation_step(batch, 0)
    means = objective.validation_totals.collect()
    assert means["loss"] == means["loss_at_6"] == pytest.approx(by_pieces(objective, batch, 6) / (B * T - 1), rel=1e-5)


def test_training_sees_pieces_of_the_training_length_only() -> None:
    objective, batch = model().train(), make_batch()
    terms = objective.losses(batch)
    assert set(terms) == {"loss", "accuracy"}
    assert terms["loss"].sum.item() == pytest.approx(by_pieces(objective, batch, 6), rel=1e-5)
    assert terms["loss"].count == B * T - 1
    with pytest.raises(AssertionError):
        torch.testing.assert_close(model(train_length=12).train().losses(batch)["loss"].sum, terms["loss"].sum)


def test_no_piece_sees_another() -> None:
    objective, batch = model().train(), make_batch()
    changed: Any = {**batch, "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][:, 5] = (changed["input_ids"][:, 5] + 1) % V
    pieces, others = (objective(cut(part, 6)).view(B, T, V) for part in (batch, changed))
    assert torch.equal(pieces[:, 6:], others[:, 6:])
    assert not torch.allclose(pieces[:, 5], others[:, 5])


def test_masks_are_cut_as_well() -> None:
    mask = torch.ones(B, T, dtype=torch.long)
    mask[0, 14:] = 0
    batch = make_batch(attention_mask=mask, document_ids=torch.arange(T).div(5, rounding_mode="floor").expand(B, T))
    batch["labels"][mask == 0] = IGNORED
    objective = model().eval()
    terms = objective.losses(batch)
    assert terms["loss"].sum.item() == pytest.approx(by_pieces(objective, batch, 6), rel=1e-5)
    assert terms["loss"].sum.isfinite()


def test_cutting() -> None:
    batch = make_batch()
    assert cut(batch, T) is batch
    assert cut(batch, T + 1) is batch
    pieces = cut(batch, 12)
    assert pieces["input_ids"].shape == (2 * B, 12)
    assert torch.equal(pieces["labels"].view(B, T), batch["labels"])
    uneven = cut(batch, 10)
    assert uneven["input_ids"].shape == (3 * B, 10)
    assert (uneven["labels"][2::3, 4:] == IGNORED).all()
    assert (uneven["labels"] != IGNORED).sum() == B * T - 1


def test_work_is_counted_at_the_training_length() -> None:
    objective = model()
    assert objective.flops_per_token(24) == CausalLM(objective.backbone).flops_per_token(6)
    assert objective.flops_per_token(4) == CausalLM(objective.backbone).flops_per_token(4)


def test_any_position_scheme_that_reaches_far_enough() -> None:
    TrainShortTestLong(backbone(position=None), train_length=6, validation_lengths=[12])
    learned = Learned(12, 16)
    TrainShortTestLong(backbone(position=learned), train_length=6, validation_lengths=[12])
    with pytest.raises(InputError) as caught:
        TrainShortTestLong(backbone(position=learned), train_length=6, validation_lengths=[6, 24])
    assert str(caught.value) == (
        "`validation_lengths` must not exceed the backbone's `max_length` (12), but one is 24; "
        "use `position=alibi`, which has no limit"
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"train_length": 0},
            "`objective.train_length` must be a whole number, at least 1, but is 0; use `objective.t",
        ),
        ({"train_length": 1.5}, "`objective.train_length` must be a whole number, at least 1, but is 1.5"),
        ({"validation_lengths": [8, 0]}, "`objective.validation_lengths` must be a whole number, at least 1, but is 0"),
        ({"validation_lengths": 128}, "`objective.validation_lengths` must be a list of one or more, but is 128"),
        ({"validation_lengths": None}, "`objective.validation_lengths` must be a list of one or more, but is None"),
    ],
)
def test_lengths_are_whole_numbers(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        model(**options)


def test_blocks_must_be_long_enough() -> None:
    objective = model()
    for block, sentence in ((24, None), (23, r"lengths \(24\), but is 23; use `data.max_length=24`")):
        data = SimpleNamespace(max_length=block, batch_type=CausalBatch, vocab_size=V)
        trainer: Any = SimpleNamespace(
            datamodule=data, callbacks=[SimpleNamespace(schedule=None)], lr_scheduler_configs=[]
        )
        objective._trainer = trainer
        if sentence is None:
            objective.on_fit_start()
        else:
            with pytest.raises(InputError, match=sentence):
                objective.on_fit_start()


def test_the_objective_brings_positions_and_blocks() -> None:
    config = compose_config("train", "objective=alibi", "max_steps=10")
    assert config.model.position._target_ == "lmmodules.models.Alibi"
    assert config.data.max_length == max(config.objective.validation_lengths) == 1024
    config = compose_config("train", "objective=alibi", "position=rotary", "data.max_length=512", "max_steps=10")
    assert config.model.position._target_ == "lmmodules.models.Rotary"
    assert config.data.max_length == 512
