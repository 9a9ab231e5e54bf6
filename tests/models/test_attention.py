from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from lmmodules.models import Alibi, KVCache, Learned, PositionScheme, Transformer
from lmmodules.models.attention import Attention
from lmmodules.models.visibility import Visibility


@pytest.fixture
def kernel_calls(monkeypatch):
    """What the attention kernel is told, call by call."""
    calls = []
    kernel = F.scaled_dot_product_attention

    def spy(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
        calls.append({"mask": attn_mask, "is_causal": is_causal, "dropout": dropout_p})
        return kernel(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    return calls


def model(causal=True, **changes):
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "hidden_size": 16, "num_layers": 3, "num_heads": 4, "initializer_std": 0.3}
    return Transformer(causal=causal, **{**sizes, **changes}).double()


def tokens(*shape):
    return torch.randint(0, 20, shape, generator=torch.Generator().manual_seed(0))


# No mask that is not needed


@pytest.mark.parametrize("causal", [True, False])
def test_whole_sequences_need_no_mask(kernel_calls, causal):
    model(causal)(tokens(2, 9))
    assert [(call["mask"], call["is_causal"]) for call in kernel_calls] == [(None, causal)] * 3


def test_decoding_one_token_needs_no_mask(kernel_calls):
    decoder = model()
    cache = KVCache.for_backbone(decoder, 2, 9)
    decoder(tokens(2, 5), cache=cache)
    decoder(tokens(2, 1), cache=cache)
    assert [(call["mask"], call["is_causal"]) for call in kernel_calls] == [(None, True)] * 3 + [(None, False)] * 3


def test_a_mask_is_made_once_for_all_layers_and_only_as_large_as_needed(kernel_calls):
    mask = torch.tensor([[1] * 9, [1] * 6 + [0] * 3])
    model(causal=False)(tokens(2, 9), attention_mask=mask)
    assert {id(call["mask"]) for call in kernel_calls} == {id(kernel_calls[0]["mask"])}
    assert kernel_calls[0]["mask"].shape == (2, 1, 1, 9)
    assert kernel_calls[0]["mask"].dtype == torch.bool
    model(causal=False, position=Alibi(4))(tokens(2, 9))
    assert kernel_calls[-1]["mask"].shape == (1, 4, 9, 9), "broadcast over the batch"


def test_a_chunk_after_a_cache_sees_the_cache_and_its_own_past():
    visibility = Visibility.decide(2, 4, causal=True, device=torch.device("cpu"))
    assert visibility.mask.tolist() == [[True, True, True, False], [True, True, True, True]]


def test_documents_are_a_block_diagonal():
    documents = torch.tensor([[0, 0, 1]])
    device = torch.device("cpu")
    both = Visibility.decide(3, 3, causal=False, device=device, document_ids=documents).mask
    past = Visibility.decide(3, 3, causal=True, device=device, document_ids=documents).mask
    assert both[0, 0].int().tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert past[0, 0].int().tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]


# Who sees whom, by what changes


@pytest.mark.parametrize("causal", [True, False])
def test_information_flows_only_where_it_may(causal):
    network = model(causal)
    embeddings = torch.randn(1, 6, 16, dtype=torch.float64, requires_grad=True)
    network(inputs_embeds=embeddings)[0, 2, 0].backward()
    reached = embeddings.grad[0].abs().sum(-1) > 0
    assert reached.tolist() == [True, True, True, not causal, not causal, not causal]


@pytest.mark.parametrize("position", ["rotary", "alibi", "learned"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_nothing(position, causal, side):
    scheme = {"rotary": None, "alibi": Alibi(4), "learned": Learned(16, 16)}[position]
    network = model(causal, position=scheme)
    ids, padding = tokens(1, 5), torch.zeros(1, 4, dtype=torch.long)
    parts = [padding, ids] if side == "left" else [ids, padding]
    mask = torch.cat([torch.full_like(part, int(part is ids)) for part in parts], 1)
    padded = network(torch.cat(parts, 1), attention_mask=mask)
    torch.testing.assert_close(padded[mask.bool()], network(ids)[0], atol=1e-12, rtol=0)


@pytest.mark.parametrize("position", ["rotary", "alibi"])
@pytest.mark.parametrize("causal", [True, False])
def test_rows_that_see_no_token_stay_finite(position, causal):
    network = model(causal, position=Alibi(4) if position == "alibi" else None)
    mask = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0]])
    hidden = network(tokens(2, 4), attention_mask=mask)
    hidden.square().sum().backward()
    assert hidden.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize("position", ["rotary", "alibi", "learned"])
@pytest.mark.parametrize("causal", [True, False])
def test_packed_documents_equal_documents_alone(position, causal):
    scheme = {"rotary": None, "alibi": Alibi(4), "learned": Learned(16, 16)}[position]
    network = model(causal, position=scheme)
    ids = tokens(1, 9)
    documents = torch.tensor([[0] * 2 + [1] * 4 + [2] * 3])
    packed = network(ids, document_ids=documents)
    alone = torch.cat([network(part) for part in ids.split([2, 4, 3], dim=1)], dim=1)
    torch.testing.assert_close(packed, alone, atol=1e-12, rtol=0)
    assert (network(ids) - alone).abs().max() > 1e-3


# The arithmetic


def test_attention_by_hand():
    torch.manual_seed(0)
    attention = Attention(6, num_heads=2, num_kv_heads=1, head_dim=3, bias=True, dropout=0.0).double()
    hidden = torch.randn(1, 4, 6, dtype=torch.float64)
    fused = hidden[0] @ attention.query_key_value.weight.T + attention.query_key_value.bias
    heads = []
    key, value = fused[:, 6:9], fused[:, 9:12]
    for query in (fused[:, 0:3], fused[:, 3:6]):
        scores = query @ key.T / math.sqrt(3)
        scores = scores + torch.full((4, 4), -math.inf, dtype=torch.float64).triu(1)
        heads.append(scores.softmax(-1) @ value)
    expected = torch.cat(heads, -1) @ attention.output.weight.T + attention.output.bias
    torch.testing.assert_close(attention(hidden, Visibility(is_causal=True))[0], expected, atol=1e-12, rtol=0)


def test_grouped_heads_equal_repeated_ones():
    grouped, full = model(num_kv_heads=2), model()
    full.load_state_dict(
        {
            name: repeat_groups(tensor) if "query_key_value" in name else tensor
            for name, tensor in grouped.state_dict().items()
        }
    )
    torch.testing.assert_close(grouped(tokens(2, 7)), full(tokens(2, 7)), atol=1e-12, rtol=0)
    assert grouped.blocks[0].attention.query_key_value.out_features == 16 + 2 * 2 * 4


def repeat_groups(fused):
    groups = fused.unflatten(0, (2, 4, 4))  # (groups, [query, query, key, value], K, ...)
    heads = [torch.stack([group[query], group[2], group[3]]) for group in groups for query in (0, 1)]
    return torch.cat([head.flatten(0, 1) for head in heads])


def test_a_rank_that_holds_some_heads_computes_its_share():
    torch.manual_seed(0)
    whole = Attention(8, num_heads=4, num_kv_heads=2, head_dim=2, bias=False, dropout=0.0)
    hidden = torch.randn(1, 5, 8)
    partial = torch.zeros(1, 5, 8)
    for rank in range(2):
        share = Attention(8, num_heads=2, num_kv_heads=1, head_dim=2, bias=False, dropout=0.0)
        share.query_key_value.weight.data = whole.query_key_value.weight.data.chunk(2, 0)[rank]
        share.output.weight.data = whole.output.weight.data.chunk(2, 1)[rank]
        partial = partial + share(hidden, Visibility(is_causal=True))
    torch.testing.assert_close(partial, whole(hidden, Visibility(is_causal=True)))


def test_attention_dropout_reaches_the_kernel_in_training_only(kernel_calls):
    network = model(attention_dropout=0.25)
    network(tokens(1, 4))
    network.eval()(tokens(1, 4))
    assert [call["dropout"] for call in kernel_calls] == [0.25] * 3 + [0.0] * 3


class LearnedBias(PositionScheme):
    """A trained number per head and distance, as relative schemes have."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(32, 4)

    def bias(self, query_length, key_length, *, causal, device, dtype):
        distance = torch.arange(key_length - query_length, key_length)[:, None] - torch.arange(key_length)
        bias = self.table(distance.abs()).permute(2, 0, 1)[None].to(dtype)
        return bias.masked_fill(distance < 0, -math.inf) if causal else bias


@pytest.mark.parametrize("causal", [True, False])
def test_a_scheme_may_learn_its_bias(causal):
    network = model(causal, position=LearnedBias())
    mask = torch.tensor([[1, 1, 1, 1, 0]])
    hidden = network(tokens(1, 5), attention_mask=mask)
    torch.testing.assert_close(hidden[:, :4], network(tokens(1, 5)[:, :4]), atol=1e-12, rtol=0)
    hidden[0, :4, 0].sum().backward()
    gradient = network.position.table.weight.grad
    assert gradient[:4].abs().min() > 0, "distances 0 to 3 occur among the four tokens"
    assert not gradient[5:].any()
