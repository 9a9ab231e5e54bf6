"""Embeddings of another size than hidden states, as ELECTRA's small networks have."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lmmodules.errors import InputError
from lmmodules.models import LanguageModelHead, Learned, NoPosition, Transformer

SIZES = {"vocab_size": 11, "hidden_size": 8, "num_layers": 1, "num_heads": 2, "causal": False}
IDS = torch.tensor([[1, 5, 9, 3]])


def test_a_matrix_takes_embeddings_to_hidden_states():
    torch.manual_seed(0)
    narrow = Transformer(**SIZES, embedding_size=4, position=Learned(6, 4), num_token_types=2, embedding_norm=True)
    wide = Transformer(**SIZES, position=NoPosition())
    wide.load_state_dict(
        {name: tensor for name, tensor in narrow.state_dict().items() if name in wide.state_dict()}
        | {"token_embedding.weight": wide.token_embedding.weight}
    )
    embeddings = narrow.token_embedding.weight[IDS] + narrow.position.table.weight[:4]
    embeddings = F.layer_norm(embeddings + narrow.token_type_embedding.weight[0], (4,))
    projected = embeddings @ narrow.embedding_projection.weight.T + narrow.embedding_projection.bias
    assert narrow(IDS).shape == (1, 4, 8)
    torch.testing.assert_close(narrow(IDS), wide(inputs_embeds=projected))
    torch.testing.assert_close(narrow(inputs_embeds=narrow.token_embedding(IDS)), narrow(IDS))


def test_equal_sizes_need_no_matrix():
    assert isinstance(Transformer(**SIZES, embedding_size=8).embedding_projection, torch.nn.Identity)
    assert Transformer(**SIZES, embedding_size=8).num_parameters() == Transformer(**SIZES).num_parameters()


def test_the_matrix_counts():
    def narrow(**changes):
        return Transformer(**SIZES, embedding_size=4, **changes)

    assert narrow().embedding_projection.bias is not None
    assert narrow(bias=False).embedding_projection.bias is None
    assert narrow().flops_per_token(5) - Transformer(**SIZES).flops_per_token(5) == 2 * 4 * 8
    assert narrow().num_parameters() == Transformer(**SIZES).num_parameters() - 11 * 4 + 4 * 8 + 8
    drawn = Transformer(**{**SIZES, "hidden_size": 256}, embedding_size=128, initializer_std=0.5).embedding_projection
    assert 0.48 < drawn.weight.std() < 0.52


def test_a_tied_head_goes_back_to_the_size_of_embeddings():
    head = LanguageModelHead(8, 11, transform=True, bias=True, embedding_size=4)
    hidden, embedding = torch.randn(3, 8), torch.randn(11, 4)
    transformed = F.layer_norm(F.gelu(hidden @ head.dense.weight.T), (4,))
    torch.testing.assert_close(head(hidden, embedding), transformed @ embedding.T)
    assert head.flops_per_token() == 2 * (8 * 4 + 4 * 11)


def test_refusals():
    with pytest.raises(InputError, match=r"`embedding_size` must be `hidden_size` \(8\) in a head without a transform"):
        LanguageModelHead(8, 11, embedding_size=4)
    with pytest.raises(InputError, match="`embedding_size` must be at least 1, but is 0"):
        Transformer(**SIZES, embedding_size=0)
    with pytest.raises(InputError, match=r"use `model.position.hidden_size=4`"):
        Transformer(**SIZES, embedding_size=4, position=Learned(6, 8))
