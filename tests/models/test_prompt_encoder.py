"""Prompt encoders have the sizes of the released code, and compute what their formula says."""

from __future__ import annotations

import pytest
import torch

from lmmodules.errors import InputError
from lmmodules.models.prompt_encoder import (
    LSTMPromptEncoder,
    MLPPromptEncoder,
    PlainPromptEncoder,
    PromptEncoder,
    PromptTable,
)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("tokens", "size", "parameters"),
    [(9, 768, 8_278_272), (9, 1024, 14_707_712), (6, 1600, 35_878_400), (6, 576, 4_658_688)],
)
def test_the_encoder_of_lama_is_as_large_as_the_released(tokens: int, size: int, parameters: int) -> None:
    with torch.device("meta"):
        assert count(LSTMPromptEncoder(tokens, size)) == parameters


def test_the_few_shot_encoder_is_as_large_as_the_released() -> None:
    encoder = LSTMPromptEncoder(1, 128, lstm_size=128)
    assert count(encoder) == 708_992
    assert encoder().shape == (1, 128)


@pytest.mark.parametrize("kind", [LSTMPromptEncoder, MLPPromptEncoder, PlainPromptEncoder])
def test_every_seed_is_trained(kind: type[PromptEncoder]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = kind(5, 64)  # of a few rectified units all may be off for one of the seeds
    output = encoder()
    assert output.shape == (5, 64)
    output.square().sum().backward()
    assert (encoder.seeds.weight.grad.abs().sum(1) > 0).all()


def test_the_lstm_hears_both_sides_and_the_mlp_neither() -> None:
    for encoder, hears in ((LSTMPromptEncoder(4, 8), True), (MLPPromptEncoder(4, 8), False)):
        before = encoder().detach()
        with torch.no_grad():
            encoder.seeds.weight[1] += 1
        moved = (encoder().detach() - before).abs().sum(1) > 1e-7
        assert moved.tolist() == ([True] * 4 if hears else [False, True, False, False])


def test_dropout_lies_between_the_layers() -> None:
    encoder = LSTMPromptEncoder(4, 8, dropout=0.5)
    assert not torch.equal(encoder(), encoder())
    encoder.eval()
    assert torch.equal(encoder(), encoder())


def test_a_table_has_an_encoder_for_each_task_that_has_tokens() -> None:
    table = PromptTable([2, 0, 3], 8, encoder="embeddings", initializer_std=0.5)
    assert table().shape == (5, 8)
    assert len(table.encoders) == 2
    assert PromptTable([0], 8)() is None
    wide = PromptTable([4000], 8, encoder="embeddings", initializer_std=0.5)
    assert wide().std().item() == pytest.approx(0.5, rel=0.05)
    assert count(PromptTable([1], 128, encoder="lstm_few_shot")) == 708_992


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(InputError, match="must be even"):
        LSTMPromptEncoder(2, 7)
    with pytest.raises(InputError, match="`encoder_dropout`"):
        PromptTable([2], 8, encoder="mlp", dropout=0.1)
    with pytest.raises(InputError, match="lstm, lstm_few_shot, mlp, embeddings"):
        PromptTable([2], 8, encoder="gru")
