"""The forms of the bias are one function."""

from __future__ import annotations

import math

import pytest
import torch

from lmmodules.models import alibi_slopes
from lmmodules.models.alibi_forms import NEGLIGIBLE, LinearBiases

CPU = torch.device("cpu")
SINGLE, DOUBLE = torch.float32, torch.float64


def by_hand(slopes, length):
    rows = [[[-m * (i - j) if j <= i else -math.inf for j in range(length)] for i in range(length)] for m in slopes]
    return torch.tensor(rows, dtype=DOUBLE)[None]


def test_golden_attention_of_one_head():
    rows = LinearBiases([0.5]).distance(3, 3, CPU, SINGLE)[0, 0].softmax(-1)
    assert rows[0].tolist() == [1, 0, 0]
    assert rows[1].tolist() == pytest.approx([1 / (1 + math.exp(0.5)), 1 / (1 + math.exp(-0.5)), 0], abs=1e-6)
    assert rows[2].tolist() == pytest.approx([0.18632, 0.30720, 0.50648], abs=1e-5)


@pytest.mark.parametrize("num_heads", [1, 3, 8, 12])
@pytest.mark.parametrize("length", [1, 2, 127, 300])
def test_every_form_is_the_definition_up_to_a_constant_per_row(num_heads, length):
    slopes = alibi_slopes(num_heads)
    biases = LinearBiases(slopes)
    expected = by_hand(slopes, length)
    assert torch.equal(biases.distance(length, length, CPU, DOUBLE), expected)
    future = torch.ones(length, length, dtype=torch.bool).triu(1)

    row = biases.row(length, CPU, DOUBLE)
    assert row.shape == (1, num_heads, 1, length)
    assert torch.equal(row, expected[:, :, -1:])
    weights = row.expand(-1, -1, length, -1).masked_fill(future, -math.inf).softmax(-1)
    torch.testing.assert_close(weights, expected.softmax(-1), atol=1e-12, rtol=0)

    head_dim = 20
    query, key = biases.folded_query(head_dim, CPU, DOUBLE), biases.folded_key(length, CPU, DOUBLE)
    assert query.shape == (1, num_heads, 1, 8)
    assert key.shape == (1, 1, length, 8)
    folded = query @ key.transpose(2, 3) / math.sqrt(head_dim)
    torch.testing.assert_close(folded, row, atol=1e-12, rtol=1e-12)

    clipped = biases.clipped(length, CPU, DOUBLE)
    torch.testing.assert_close(clipped.softmax(-1), expected.softmax(-1), atol=1e-24, rtol=1e-12)
    assert (clipped[clipped.isfinite()] >= -NEGLIGIBLE).all()
    assert torch.equal(clipped.isinf(), expected < -NEGLIGIBLE)


def test_a_chunk_is_the_end_of_the_whole():
    biases = LinearBiases(alibi_slopes(3))
    whole = biases.distance(9, 9, CPU, SINGLE)
    for chunk in (1, 4):
        assert torch.equal(biases.distance(chunk, 9, CPU, SINGLE), whole[:, :, -chunk:])


def test_tables_grow_by_powers_of_two_and_serve_what_is_shorter():
    biases = LinearBiases(alibi_slopes(2))
    longest = biases.row(33, CPU, SINGLE)
    for length in (1, 20, 33, 64):
        row = biases.row(length, CPU, SINGLE)
        assert row.untyped_storage().data_ptr() == longest.untyped_storage().data_ptr()
        assert row[0, :, 0].tolist() == [[-m * (length - 1 - j) for j in range(length)] for m in alibi_slopes(2)]
    assert biases.row(65, CPU, SINGLE).untyped_storage().nbytes() == 2 * 128 * 4
    assert biases.folded_key(65, CPU, SINGLE).shape == (1, 1, 65, 8)


def test_what_inference_made_serves_training():
    biases = LinearBiases([0.5])
    with torch.inference_mode():
        made = [biases.row(5, CPU, SINGLE), biases.distance(5, 5, CPU, SINGLE), biases.folded_key(5, CPU, SINGLE)]
    kept = [biases.row(5, CPU, SINGLE), biases.distance(5, 5, CPU, SINGLE), biases.folded_key(5, CPU, SINGLE)]
    assert kept[1] is made[1]
    assert not any(tensor.is_inference() for tensor in kept)


def test_another_dtype_is_another_tensor():
    biases = LinearBiases(alibi_slopes(3))
    half = biases.row(5, CPU, torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert biases.row(5, CPU, DOUBLE).dtype == DOUBLE
    exact = -torch.tensor(alibi_slopes(3), dtype=DOUBLE)[:, None] * torch.arange(4, -1, -1)
    assert torch.equal(biases.row(5, CPU, DOUBLE)[0, :, 0], exact)


def test_bfloat16_keeps_near_distances_and_rounds_the_row():
    biases = LinearBiases(alibi_slopes(8))
    assert biases.distance(512, 512, CPU, torch.bfloat16)[0, 0, 300, 297:301].tolist() == [-1.5, -1.0, -0.5, 0.0]
    row = biases.row(1024, CPU, torch.bfloat16)[0, 0, 0]
    assert row[501:504].tolist() == [-260.0] * 3, "query 503 could not tell these keys apart"
    assert row[-4:].tolist() == [-1.5, -1.0, -0.5, 0.0], "the last query can"


@pytest.mark.parametrize(("num_heads", "length"), [(16, 4096), (12, 2000)])
def test_folding_is_as_exact_as_slopes_in_two_parts(num_heads, length):
    biases = LinearBiases(alibi_slopes(num_heads))
    query = biases.folded_query(64, CPU, torch.bfloat16).double()
    key = biases.folded_key(length, CPU, torch.bfloat16).double()
    folded = (query @ key.transpose(2, 3) / 8)[0, :, 0]
    exact = biases.row(length, CPU, DOUBLE)[0, :, 0]
    assert ((folded - exact).abs() <= 2**-15 * exact.abs()).all()
    query[..., 2:4] = 0
    assert ((query @ key.transpose(2, 3) / 8)[0, :, 0] - exact).abs().max() > 0.1, "without what rounding took"
