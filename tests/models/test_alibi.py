from __future__ import annotations

import math

import pytest
import torch

from lmmodules.errors import InputError
from lmmodules.models import Alibi, Transformer, alibi_slopes
from lmmodules.models.attention import Visibility

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("num_heads", "slopes"),
    [
        (1, [0.00390625]),
        (2, [0.0625, 0.00390625]),
        (3, [0.0625, 0.00390625, 0.25]),
        (6, [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125]),
        (8, [2.0**-k for k in range(1, 9)]),
        (12, [2.0**-k for k in range(1, 9)] + [0.70710678, 0.35355339, 0.17677670, 0.08838835]),
        (16, [2.0 ** (-k / 2) for k in range(1, 17)]),
    ],
)
def test_published_slopes(num_heads, slopes):
    assert alibi_slopes(num_heads) == pytest.approx(slopes, abs=1e-8)


def test_slopes_agree_with_bloom_for_every_number_of_heads():
    pytest.importorskip("transformers")
    from transformers.models.bloom.modeling_bloom import _get_alibi_slopes

    for num_heads in range(1, 129):
        assert list(alibi_slopes(num_heads)) == pytest.approx(_get_alibi_slopes(num_heads, CPU).tolist(), rel=1e-5)


def test_golden_attention_of_one_head():
    scheme = Alibi(1)
    scheme.slopes = (0.5,)
    bias = scheme.bias(3, 3, causal=True, device=CPU, dtype=torch.float32)
    rows = bias[0, 0].softmax(-1)
    assert rows[0].tolist() == [1, 0, 0]
    assert rows[1].tolist() == pytest.approx([1 / (1 + math.exp(0.5)), 1 / (1 + math.exp(-0.5)), 0], abs=1e-6)
    assert rows[2].tolist() == pytest.approx([0.18632, 0.30720, 0.50648], abs=1e-5)


def test_bidirectional_bias_is_symmetric():
    bias = Alibi(2).bias(3, 3, causal=False, device=CPU, dtype=torch.float32)
    assert bias[0, 0].tolist() == [[0, -0.0625, -0.125], [-0.0625, 0, -0.0625], [-0.125, -0.0625, 0]]


def test_bias_of_a_chunk_is_the_end_of_the_full_one():
    scheme = Alibi(3)
    full = scheme.bias(9, 9, causal=True, device=CPU, dtype=torch.float32)
    for chunk in (1, 4):
        part = scheme.bias(chunk, 9, causal=True, device=CPU, dtype=torch.float32)
        assert torch.equal(part, full[:, :, -chunk:])


def test_the_bias_is_made_once_per_length_and_serves_training_after_inference():
    scheme = Alibi(2)
    with torch.inference_mode():
        first = scheme.bias(5, 5, causal=True, device=CPU, dtype=torch.float32)
    assert not first.is_inference()
    assert scheme.bias(5, 5, causal=True, device=CPU, dtype=torch.float32) is first
    assert scheme.bias(6, 6, causal=True, device=CPU, dtype=torch.float32).shape == (1, 2, 6, 6)
    assert scheme.state_dict() == {}
    assert list(scheme.parameters()) == []


def test_bfloat16_keeps_the_near_distances_exact():
    bias = Alibi(8).to(torch.bfloat16).bias(512, 512, causal=True, device=CPU, dtype=torch.bfloat16)
    near = bias[0, 0, -1, -4:]
    assert near.tolist() == [-1.5, -1.0, -0.5, 0.0], "key positions times the slope would all be rounded to -256"


def test_the_bias_reaches_attention_unscaled():
    visibility = Visibility.decide(
        2, 2, causal=True, device=CPU, bias=Alibi(1).bias(2, 2, causal=True, device=CPU, dtype=torch.float32)
    )
    assert not visibility.is_causal
    assert visibility.mask.tolist() == [[[[0, -math.inf], [-0.00390625, 0]]]]


def test_heads_must_agree():
    with pytest.raises(InputError, match=r"`num_heads` of ALiBi must be that of the model \(2\), but is 4"):
        Transformer(vocab_size=9, hidden_size=8, num_layers=1, num_heads=2, causal=True, position=Alibi(4))
    with pytest.raises(InputError, match="`num_heads` must be positive, but is 0"):
        Alibi(0)
