"""The head over one state of a sequence."""

from __future__ import annotations

import pytest
import torch

from lmmodules.errors import InputError
from lmmodules.models.classification_head import ClassificationHead


def test_it_is_dense_tanh_linear() -> None:
    torch.manual_seed(0)
    head = ClassificationHead(8, 3, initializer_std=0.5).double().eval()
    states = torch.randn(4, 8, dtype=torch.float64)
    inner = torch.tanh(states @ head.dense.weight.T + head.dense.bias)
    torch.testing.assert_close(head(states), inner @ head.output.weight.T + head.output.bias)
    assert head.flops_per_sequence() == 2 * (8 * 8 + 8 * 3)


def test_weights_begin_as_those_of_bert() -> None:
    torch.manual_seed(0)
    head = ClassificationHead(256, 200, initializer_std=0.1)
    for layer in (head.dense, head.output):
        assert layer.weight.std().item() == pytest.approx(0.1, rel=0.02)
        assert not layer.bias.any()


def test_dropout_acts_twice_and_in_training_only() -> None:
    torch.manual_seed(0)
    head = ClassificationHead(64, 5, dropout=0.5, initializer_std=0.3)
    states = torch.randn(16, 64)
    assert not torch.equal(head(states), head(states))
    seen: list[torch.Tensor] = []
    head.dense.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    head.output.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    head(states)
    for given in seen:
        assert (given == 0).float().mean().item() == pytest.approx(0.5, abs=0.1)
    head.eval()
    assert torch.equal(head(states), head(states))
    assert torch.equal(ClassificationHead(64, 5)(states) * 0, torch.zeros(16, 5))  # none by default


def test_sizes_are_checked() -> None:
    with pytest.raises(InputError, match="`pooler_dropout` must be at least 0 and less than 1, but is 1"):
        ClassificationHead(8, 2, dropout=1.0)
    with pytest.raises(InputError, match="`num_outputs` must be at least 1, but is 0"):
        ClassificationHead(8, 0)
