from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lmmodules.models import Alibi, KVCache, Learned, Rotary, Transformer
from lmmodules.models.chosen_queries import ChosenQueries
from lmmodules.models.visibility import Visibility

BATCH, LENGTH = 3, 20
ROWS = torch.tensor([59, 22, 3, 25, 25, 15, 39, 8])  # in no order, one of them twice, some sequences with fewer


@pytest.fixture
def query_lengths(monkeypatch):
    """How many queries the attention kernel is given, call by call."""
    lengths = []
    kernel = F.scaled_dot_product_attention

    def spy(query, *arguments, **named):
        lengths.append(query.shape[2])
        return kernel(query, *arguments, **named)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    return lengths


def model(causal, **changes):
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "initializer_std": 0.3}
    return Transformer(causal=causal, **{**sizes, **changes}).double()


def inputs(*names):
    generator = torch.Generator().manual_seed(1)
    given = {"input_ids": torch.randint(0, 50, (BATCH, LENGTH), generator=generator)}
    if "padding" in names:
        given["attention_mask"] = torch.ones(BATCH, LENGTH, dtype=torch.long)
        given["attention_mask"][0, :2] = 0
        given["attention_mask"][2, 19:] = 0
    if "documents" in names:
        given["document_ids"] = (torch.rand(BATCH, LENGTH, generator=generator) < 0.3).cumsum(1)
    return given


@pytest.mark.parametrize("given", [(), ("padding",), ("documents",), ("padding", "documents")])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    "changes", [{}, {"num_kv_heads": 2}, {"position": Rotary()}, {"position": Learned(LENGTH, 32)}]
)
def test_states_and_gradients_are_those_of_all_queries(query_lengths, given, causal, changes):
    transformer, batch = model(causal, **changes), inputs(*given)
    weights = torch.randn(len(ROWS), 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    every = transformer(**batch).flatten(0, 1)[ROWS]
    few = transformer(**batch, rows=ROWS)
    torch.testing.assert_close(few, every, rtol=0, atol=1e-12)
    expected, found = (
        torch.autograd.grad((states * weights).sum(), list(transformer.parameters())) for states in (every, few)
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
    assert query_lengths == [LENGTH, LENGTH, LENGTH, 4]  # the middle sequence has four of the rows


def test_position_schemes_with_their_own_kernels_are_left_alone(query_lengths):
    transformer, batch = model(True, position=Alibi(4)), inputs()
    few = transformer(**batch, rows=ROWS)
    torch.testing.assert_close(few, transformer(**batch).flatten(0, 1)[ROWS], rtol=0, atol=1e-12)
    assert query_lengths[-4:] == [LENGTH] * 4


def test_behind_a_cache(query_lengths):
    transformer, ids = model(True), inputs()["input_ids"]
    cache = KVCache.for_backbone(transformer, BATCH, LENGTH)
    transformer(ids[:, :8], cache=cache)
    rows = torch.tensor([11, 23, 24])  # of twelve new tokens a sequence
    few = transformer(ids[:, 8:], cache=cache, rows=rows)
    torch.testing.assert_close(few, transformer(ids)[:, 8:].flatten(0, 1)[rows], rtol=0, atol=1e-12)
    assert query_lengths[3] == 1


def test_dropped_attention_keeps_its_mean():
    queries, keys, values = torch.randn(3, BATCH, 4, LENGTH, 8, generator=torch.Generator().manual_seed(3))
    rows = torch.arange(BATCH) * LENGTH
    chosen = ChosenQueries.where_fewer(rows, BATCH, LENGTH, Visibility())
    few = chosen.gather(queries.transpose(1, 2)).transpose(1, 2)
    seen = chosen.visibility(Visibility(is_causal=True), LENGTH)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [seen.attend(few, keys, values, dropout=0.5) for _ in range(4000)]
    kept = Visibility(is_causal=True).attend(queries, keys, values)[:, :, :1]  # the first token sees itself alone
    torch.testing.assert_close(torch.stack(drawn).mean(0), kept, rtol=0.1, atol=0.02)


@pytest.mark.parametrize(
    ("rows", "visibility"),
    [
        (torch.arange(11), Visibility()),  # eleven of twenty in one sequence
        (torch.arange(0), Visibility()),
        (torch.arange(3), Alibi(4).bias(LENGTH, LENGTH, causal=False, device="cpu", dtype=torch.float32)),
    ],
)
def test_all_queries_are_used_where_few_would_not_be_less_work(rows, visibility):
    assert ChosenQueries.where_fewer(rows, BATCH, LENGTH, visibility) is None


def test_the_last_tokens_need_no_mask():
    last = ChosenQueries.where_fewer(torch.arange(1, BATCH + 1) * LENGTH - 1, BATCH, LENGTH, Visibility())
    assert last.visibility(Visibility(is_causal=True), LENGTH) == Visibility()
    other = ChosenQueries.where_fewer(torch.arange(1, BATCH + 1) * LENGTH - 2, BATCH, LENGTH, Visibility())
    seen = other.visibility(Visibility(is_causal=True), LENGTH).mask
    assert seen.sum(-1).flatten().tolist() == [LENGTH - 1] * BATCH


def test_places_by_hand():
    chosen = ChosenQueries.where_fewer(torch.tensor([13, 2, 10]), 3, 5, Visibility())
    assert chosen.positions.tolist() == [[2, 0], [0, 0], [3, 0]]  # 13 and 10 are tokens 3 and 0 of the third sequence
    assert chosen.sources.tolist() == [2, 0, 5, 5, 13, 10]
    assert chosen.places.tolist() == [4, 0, 5]
