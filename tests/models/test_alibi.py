"""The published slopes, and the scheme around them."""

from __future__ import annotations

import pytest
import torch

from lmmodules.errors import InputError
from lmmodules.models import Alibi, Transformer, alibi_slopes

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


def bias(scheme: Alibi, length: int) -> torch.Tensor:
    """What a bidirectional model adds to its scores, (H, T, T)."""
    answer = scheme.bias(length, length, causal=False, device=CPU, dtype=torch.float32).visibility(None, None)
    assert answer.mask is not None
    return answer.mask[0]


def test_symmetric_bias_written_out():
    assert bias(Alibi(2), 3)[0].tolist() == [[0, -0.0625, -0.125], [-0.0625, 0, -0.0625], [-0.125, -0.0625, 0]]


def test_offset_bias_written_out():
    assert bias(Alibi(2, "offset"), 3)[0].tolist() == [
        [0, -0.03125, -0.09375],
        [-0.0625, 0, -0.03125],
        [-0.125, -0.0625, 0],
    ]


def test_one_sided_bias_written_out():
    hidden = float("-inf")
    heads = bias(Alibi(4, "one_sided"), 3)
    slopes = alibi_slopes(2)
    for head, slope in enumerate(slopes):
        past = [[0, hidden, hidden], [-slope, 0, hidden], [-2 * slope, -slope, 0]]
        assert heads[head].tolist() == past
        assert heads[2 + head].T.tolist() == past, "the same slopes, with time reversed"


def test_one_sided_heads_are_causal_ones_and_their_mirror_image():
    torch.manual_seed(0)
    both = Transformer(
        vocab_size=9, hidden_size=8, num_layers=1, num_heads=2, causal=False, position=Alibi(2, "one_sided")
    ).double()
    query, key, value = torch.randn(3, 1, 2, 7, 4, dtype=torch.float64)
    visibility = both.position.bias(7, 7, causal=False, device=CPU, dtype=torch.float64).visibility(None, None)
    found = visibility.attend(query, key, value)
    causal = Alibi(1).bias(7, 7, causal=True, device=CPU, dtype=torch.float64).visibility(None, None)
    past = causal.attend(query[:, :1], key[:, :1], value[:, :1])
    future = causal.attend(query[:, 1:].flip(2), key[:, 1:].flip(2), value[:, 1:].flip(2)).flip(2)
    torch.testing.assert_close(found, torch.cat([past, future], 1), atol=1e-12, rtol=0)


def test_without_slopes_or_mask_order_is_unknown():
    torch.manual_seed(0)
    scheme = Alibi(2)
    network = Transformer(vocab_size=9, hidden_size=8, num_layers=2, num_heads=2, causal=False, position=scheme)
    network.double()
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    order = torch.tensor([3, 0, 4, 1, 2])
    assert not torch.allclose(network(ids[:, order]), network(ids)[:, order], atol=1e-6)
    scheme._bidirectional.past = scheme._bidirectional.future = (0.0, 0.0)
    scheme._bidirectional._kept.clear()
    torch.testing.assert_close(network(ids[:, order]), network(ids)[:, order], atol=1e-12, rtol=0)


def test_nothing_is_saved_or_trained():
    scheme = Alibi(3)
    network = Transformer(vocab_size=9, hidden_size=6, num_layers=1, num_heads=3, causal=True, position=scheme)
    names = set(network.state_dict())
    network(torch.zeros(1, 40, dtype=torch.long))
    assert set(network.state_dict()) == names
    assert scheme.state_dict() == {}
    assert list(scheme.parameters()) == []


def test_a_rank_keeps_the_slopes_of_its_own_heads():
    whole, ranks = Alibi(6), [Alibi(6), Alibi(6)]
    ranks[0].keep_heads(0, 3)
    ranks[1].keep_heads(3, 6)
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 6, 9, 4, dtype=torch.float64)
    documents = torch.tensor([[0] * 4 + [1] * 5, [0] * 9])

    def attend(scheme: Alibi, heads: slice, causal: bool, document_ids: torch.Tensor | None) -> torch.Tensor:
        forms = scheme.bias(9, 9, causal=causal, device=CPU, dtype=torch.float64)
        return forms.visibility(None, document_ids).attend(query[:, heads], key[:, heads], value[:, heads])

    for causal in (True, False):
        for ids in (None, documents):
            shares = [attend(ranks[0], slice(0, 3), causal, ids), attend(ranks[1], slice(3, 6), causal, ids)]
            torch.testing.assert_close(torch.cat(shares, 1), attend(whole, slice(0, 6), causal, ids))
    assert not torch.allclose(attend(Alibi(3), slice(3, 6), True, None), shares[1]), "three heads of their own"


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (2, 2), (0, 7)])
def test_only_heads_that_there_are_can_be_kept(start, stop):
    with pytest.raises(InputError, match=r"`start` and `stop` must be heads of the model \(0 to 6\), but are"):
        Alibi(6).keep_heads(start, stop)


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"`num_heads` of ALiBi must be that of the model \(2\), but is 4"):
        Transformer(vocab_size=9, hidden_size=8, num_layers=1, num_heads=2, causal=True, position=Alibi(4))
    with pytest.raises(InputError, match="`num_heads` must be positive, but is 0"):
        Alibi(0)
    with pytest.raises(InputError, match=r"`position\.bidirectional` must be one of symmetric, one_sided, offset, but"):
        Alibi(2, "both")
    with pytest.raises(InputError, match="`num_heads` must be even with one-sided heads, but is 3; use"):
        Alibi(3, "one_sided")
