from __future__ import annotations

import math

import pytest
import torch

from lmmodules.errors import InputError
from lmmodules.models import LanguageModelHead


def test_a_tied_head_has_nothing_of_its_own_and_passes_gradients_to_the_embedding():
    head = LanguageModelHead(4, 9)
    assert head.state_dict() == {}
    hidden, embedding = torch.randn(2, 3, 4), torch.randn(9, 4, requires_grad=True)
    logits = head(hidden, embedding)
    torch.testing.assert_close(logits, hidden @ embedding.T)
    logits.sum().backward()
    torch.testing.assert_close(embedding.grad, hidden.sum((0, 1)).expand(9, 4))


def test_an_untied_head_ignores_the_embedding():
    head = LanguageModelHead(4, 9, tied=False)
    hidden = torch.randn(2, 4)
    assert list(head.state_dict()) == ["weight"]
    torch.testing.assert_close(head(hidden, torch.full((9, 4), math.nan)), hidden @ head.weight.T)
    assert head.weight.std().item() == pytest.approx(0.02, rel=0.4)


def test_the_transform_is_dense_activation_norm():
    torch.manual_seed(0)
    head = LanguageModelHead(4, 9, transform=True, bias=True, norm_eps=0.1)
    with torch.no_grad():
        head.bias.copy_(torch.arange(9.0))
        head.dense.weight.mul_(50)
        head.norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    hidden, embedding = torch.randn(3, 4), torch.randn(9, 4)
    inner = hidden @ head.dense.weight.T
    inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
    centred = inner - inner.mean(-1, keepdim=True)
    features = centred / (centred.square().mean(-1, keepdim=True) + 0.1).sqrt() * head.norm.weight
    torch.testing.assert_close(head.features(hidden), features)
    torch.testing.assert_close(head(hidden, embedding), features @ embedding.T + torch.arange(9.0))


def test_initial_state():
    head = LanguageModelHead(64, 9, transform=True, tied=False, bias=True, initializer_std=0.5)
    assert set(head.state_dict()) == {"dense.weight", "dense.bias", "norm.weight", "norm.bias", "weight", "bias"}
    assert head.dense.weight.std().item() == pytest.approx(0.5, rel=0.05)
    assert head.weight.std().item() == pytest.approx(0.5, rel=0.1)
    assert head.bias.abs().sum() == 0
    assert head.dense.bias.abs().sum() == 0


@pytest.mark.parametrize("option", [{"activation": "relu"}, {"activation": "gelu_tanh"}, {"norm_eps": 1e-2}])
def test_options_of_the_transform_change_the_features(option):
    def features(**options):
        torch.manual_seed(0)
        head = LanguageModelHead(8, 9, transform=True, initializer_std=0.5, **options)
        return head.features(torch.linspace(-1, 1, 8))

    assert not torch.allclose(features(), features(**option), atol=1e-4)


def test_the_head_at_some_rows_is_some_rows_of_the_head():
    head = LanguageModelHead(8, 9, transform=True, bias=True)
    hidden, embedding, rows = torch.randn(10, 8), torch.randn(9, 8), torch.tensor([1, 1, 7])
    torch.testing.assert_close(head(hidden[rows], embedding), head(hidden, embedding)[rows])


@pytest.mark.parametrize("options", [{}, {"tied": False}, {"transform": True, "bias": True}])
@pytest.mark.parametrize(("batch_size", "steps"), [(1, 5), (1, 100), (3, 5)])
def test_the_head_for_writing_gives_the_same_logits(options, batch_size, steps):
    head = LanguageModelHead(8, 9, **options)
    hidden, embedding = torch.randn(batch_size, 8), torch.randn(9, 8)
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 0.0)):
        head, hidden, embedding = head.to(dtype), hidden.to(dtype), embedding.to(dtype)
        logits = head.for_writing(embedding, batch_size, steps)(hidden)
        torch.testing.assert_close(logits, head(hidden, embedding), atol=tolerance, rtol=tolerance)
    with torch.autocast("cpu", torch.bfloat16):
        written = head.float().for_writing(embedding.float(), batch_size, steps)(hidden.float())
        assert written.dtype == torch.bfloat16


def test_flops_and_errors():
    assert LanguageModelHead(4, 9).flops_per_token() == 2 * 4 * 9
    assert LanguageModelHead(4, 9, transform=True).flops_per_token() == 2 * (4 * 4 + 4 * 9)
    with pytest.raises(InputError, match="`activation` must be one of gelu, gelu_tanh, relu in a head, but is 'sw"):
        LanguageModelHead(4, 9, activation="swiglu")
