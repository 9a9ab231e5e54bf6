from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from lmmodules.errors import InputError
from lmmodules.models import Alibi, Learned, NoPosition, Rotary, Sinusoidal, Transformer
from lmmodules.models.attention import rotate
from lmmodules.models.positions import Positions

# Positions


def test_consecutive_positions_need_no_tensor():
    assert Positions.locate(5, 3) == Positions(start=3, length=5, ids=None)
    assert Positions.locate(5, 3).end == 8


def test_padding_is_not_counted_on_either_side():
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1]])
    ids = Positions.locate(5, attention_mask=mask).ids
    assert ids[mask.bool()].tolist() == [0, 1, 2, 0, 1, 2]
    assert ids.min() == 0
    assert ids.max() < 5, "positions of padding stay inside a table of that length"


def test_positions_begin_anew_at_each_document():
    documents = torch.tensor([[4, 4, 4, 9, 9, 4], [0, 1, 1, 2, 3, 3]])
    assert Positions.locate(6, document_ids=documents).ids.tolist() == [[0, 1, 2, 0, 1, 0], [0, 0, 1, 0, 0, 1]]


def test_positions_of_documents_with_padding():
    documents = torch.tensor([[0, 0, 0, 1, 1, 1]])
    mask = torch.tensor([[0, 1, 1, 1, 1, 0]])
    assert Positions.locate(6, attention_mask=mask, document_ids=documents).ids[mask.bool()].tolist() == [0, 1, 0, 1]


def test_positions_after_a_cache_come_from_the_whole_mask():
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    assert Positions.locate(2, 3, attention_mask=mask).ids.tolist() == [[1, 2]]


# Learned


def test_learned_adds_the_row_of_its_position_after_the_offset():
    scheme = Learned(6, 4, offset=2)
    embeddings = torch.randn(2, 3, 4)
    table = scheme.table.weight
    assert table.shape == (8, 4)
    torch.testing.assert_close(scheme.embed(embeddings, Positions(0, 3)), embeddings + table[2:5])
    torch.testing.assert_close(scheme.embed(embeddings, Positions(3, 3)), embeddings + table[5:8])
    ids = torch.tensor([[0, 5, 1], [2, 2, 2]])
    torch.testing.assert_close(scheme.embed(embeddings, Positions(0, 3, ids)), embeddings + table[ids + 2])


def test_learned_positions_end():
    scheme = Learned(6, 4)
    with pytest.raises(InputError, match=r"`max_length` is 6, but a sequence has 7 tokens; use `model.max_length=7`"):
        scheme.embed(torch.zeros(1, 2, 4), Positions(5, 2))
    with pytest.raises(InputError, match="`max_length` must be given"):
        Learned(None, 4)
    with pytest.raises(InputError, match=r"`hidden_size` of the learned positions must be that of the model \(8\)"):
        Transformer(vocab_size=9, hidden_size=8, num_layers=1, num_heads=2, causal=True, position=Learned(4, 16))


# Sinusoidal


@pytest.mark.parametrize("size", [8, 7])
def test_sinusoidal_follows_the_formula(size):
    embeddings = torch.randn(1, 5, size, dtype=torch.float64)
    expected = embeddings.numpy() * math.sqrt(size)
    even = size + size % 2
    for position in range(5):
        for dimension in range(size):
            angle = position / 10000 ** (2 * (dimension // 2) / even)
            expected[0, position, dimension] += math.cos(angle) if dimension % 2 else math.sin(angle)
    np.testing.assert_allclose(Sinusoidal().embed(embeddings, Positions(0, 5)), expected, atol=1e-6)


def test_explicit_positions_agree_with_consecutive_ones():
    embeddings = torch.randn(2, 5, 8)
    ids = torch.arange(3, 8).expand(2, 5)
    for scheme in (Sinusoidal(), Learned(9, 8)):
        torch.testing.assert_close(
            scheme.embed(embeddings, Positions(3, 5)), scheme.embed(embeddings, Positions(3, 5, ids)), rtol=0, atol=0
        )
    for fast, slow in zip(
        Rotary().rotation(Positions(3, 5), 8, embeddings),
        Rotary().rotation(Positions(3, 5, ids), 8, embeddings),
        strict=True,
    ):
        torch.testing.assert_close(fast.expand_as(slow), slow, rtol=0, atol=0)


# Rotary


def rotated(heads, ids, theta=10000.0):
    return rotate(heads, *Rotary(theta).rotation(Positions(0, len(ids), ids[None]), heads.shape[-1], heads))


def test_rotary_turns_pairs_by_the_hand_formula():
    heads = torch.randn(1, 3, 1, 1, 6, dtype=torch.float64)
    ids = torch.tensor([0, 1, 9])
    result = rotated(heads, ids, theta=100.0)
    for t, position in enumerate(ids.tolist()):
        for pair in range(3):
            angle = position * 100.0 ** (-2 * pair / 6)
            a, b = heads[0, t, 0, 0, pair].item(), heads[0, t, 0, 0, pair + 3].item()
            expected = complex(a, b) * complex(math.cos(angle), math.sin(angle))
            assert result[0, t, 0, 0, pair].item() == pytest.approx(expected.real, abs=1e-6)
            assert result[0, t, 0, 0, pair + 3].item() == pytest.approx(expected.imag, abs=1e-6)


def test_rotary_changes_its_input_and_keeps_its_norm():
    heads = torch.randn(1, 7, 2, 3, 8)
    result = rotated(heads, torch.arange(7))
    torch.testing.assert_close(result.norm(dim=-1), heads.norm(dim=-1))
    assert torch.equal(result[:, 0], heads[:, 0]), "position 0 is not turned"
    assert (result[:, 1:] - heads[:, 1:]).abs().amax(dim=(0, 2, 3, 4)).min() > 0.1


def test_rotary_scores_depend_on_distance_alone():
    query, key = torch.randn(2, 1, 1, 1, 1, 8, dtype=torch.float64)

    def score(i, j):
        return (rotated(query, torch.tensor([i])) * rotated(key, torch.tensor([j]))).sum().item()

    assert score(7, 4) == pytest.approx(score(107, 104), abs=1e-4)
    assert abs(score(7, 4) - score(7, 5)) > 1e-3


def test_rotary_tables_are_exact_in_half_precision_models_and_usable_after_inference():
    scheme = Rotary()
    like = torch.zeros(1, dtype=torch.bfloat16)
    with torch.inference_mode():
        cosine, _ = scheme.to(torch.bfloat16).rotation(Positions(0, 2000), 8, like)
    exact = torch.arange(2000, dtype=torch.float64).cos()
    # Angles themselves in bfloat16 would be wrong by whole turns at position 2000.
    assert (cosine[0, :, 0, 0, 0].double() - exact).abs().max() < 2**-8
    assert not scheme.rotation(Positions(0, 2000), 8, like)[0].is_inference()
    assert scheme.state_dict() == {}


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("scheme", [Rotary(), Sinusoidal(), Alibi(2)], ids=["rotary", "sinusoidal", "alibi"])
def test_counting_a_network_leaves_no_false_tables(scheme, causal):
    network = Transformer(
        vocab_size=9, hidden_size=16, num_layers=1, num_heads=2, causal=causal, position=scheme
    ).eval()
    ids = torch.arange(7)[None]
    expected = network(ids)
    for length in (7, 40):
        with FakeTensorMode(allow_non_fake_inputs=True):
            network(torch.zeros(1, length, dtype=torch.int64))
        longer = network(torch.arange(length)[None] % 9)
        assert not isinstance(longer, FakeTensor)
    torch.testing.assert_close(network(ids), expected, atol=1e-6, rtol=0)


def test_rotary_theta_changes_the_angles_and_is_checked():
    heads = torch.randn(1, 4, 1, 1, 8)
    assert not torch.allclose(rotated(heads, torch.arange(4)), rotated(heads, torch.arange(4), theta=100.0))
    with pytest.raises(InputError, match="`theta` must be positive, but is 0"):
        Rotary(0)
    with pytest.raises(InputError, match="`head_dim` must be even with rotary positions, but is 3"):
        Transformer(vocab_size=9, hidden_size=6, num_layers=1, num_heads=2, causal=True)


# In a model


@pytest.mark.parametrize(
    "scheme", [Learned(16, 8), Sinusoidal(), Rotary(), Alibi(2)], ids=["learned", "sinusoidal", "rotary", "alibi"]
)
def test_every_scheme_sees_order_and_none_does_not(scheme):
    def encode(position, ids):
        torch.manual_seed(0)
        model = Transformer(
            vocab_size=20,
            hidden_size=8,
            num_layers=2,
            num_heads=2,
            causal=False,
            position=position,
            initializer_std=0.5,
        )
        return model(ids)

    ids, order = torch.tensor([[3, 1, 4, 15, 9]]), torch.tensor([4, 2, 0, 1, 3])
    for position, permuted in ((scheme, False), (NoPosition(), True)):
        same = torch.allclose(encode(position, ids)[:, order], encode(position, ids[:, order]), atol=1e-5)
        assert same == permuted
