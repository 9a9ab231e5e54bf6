from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lmmodules.errors import InputError
from lmmodules.models import Learned, RelativeBias, Transformer
from lmmodules.models.relative_positions import distance_buckets


def magnitudes(num_buckets: int, max_distance: int, upto: int = 600) -> Tensor:
    """Buckets of the distances 0, 1, 2, ... counted from that of distance 0."""
    return distance_buckets(torch.arange(upto), num_buckets, max_distance) - (num_buckets // 2 - 1)


def t5_magnitude(distance: int) -> int:
    """Of T5's 32 buckets up to distance 128, from its formula, which rounds down."""
    if distance < 8:
        return distance
    return min(15, 8 + int(math.log(distance / 8) / math.log(128 / 8) * 8))


def test_where_the_buckets_of_the_architectures_default_begin() -> None:
    buckets = magnitudes(32, 128)
    assert [int((buckets == b).nonzero()[0]) for b in range(8, 16)] == [8, 9, 12, 18, 27, 39, 58, 86]
    assert buckets.max() == 15


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((64, 128), {17: 17, 19: 18, 32: 22, 64: 27, 111: 31}),
        ((128, 256), {33: 33, 35: 34, 64: 43, 239: 63}),
    ],
)
def test_buckets_of_the_released_models(sizes: tuple[int, int], expected: dict[int, int]) -> None:
    buckets = magnitudes(*sizes)
    assert {distance: int(buckets[distance]) for distance in expected} == expected


@pytest.mark.parametrize(("num_buckets", "max_distance", "used"), [(32, 128, 31), (64, 128, 63), (128, 256, 127)])
def test_buckets_are_antisymmetric_around_that_of_no_distance(num_buckets: int, max_distance: int, used: int) -> None:
    distances = torch.arange(-600, 601)
    buckets = distance_buckets(distances, num_buckets, max_distance)
    centre = num_buckets // 2 - 1
    assert buckets[600] == centre
    assert torch.equal(buckets - centre, -(buckets.flip(0) - centre))
    assert sorted(set(buckets.tolist())) == list(range(used))


def test_they_are_not_those_of_t5() -> None:
    buckets = magnitudes(32, 128, 512).tolist()
    others = [t5_magnitude(distance) for distance in range(512)]
    different = [distance for distance in range(512) if buckets[distance] != others[distance]]
    assert len(different) == 35
    assert different[0] == 9
    assert (buckets[9], others[9]) == (9, 8)


@pytest.mark.parametrize(("queries", "keys", "causal"), [(7, 7, False), (1, 7, True), (3, 7, True), (7, 7, True)])
def test_the_bias_is_the_table_at_the_bucket_of_each_distance(queries: int, keys: int, causal: bool) -> None:
    scheme = RelativeBias(3, 8, 6)
    torch.nn.init.normal_(scheme.table.weight)
    found = scheme.bias(queries, keys, causal=causal, device=torch.device("cpu"), dtype=torch.float32)
    assert found.shape == (1, 3, queries, keys)
    for query in range(queries):
        for key in range(keys):
            distance = key - (keys - queries + query)
            wanted = scheme.table.weight[distance_buckets(torch.tensor(distance), 8, 6)]
            if causal and distance > 0:
                wanted = torch.full((3,), float("-inf"))
            assert torch.equal(found[0, :, query, key], wanted)


def test_the_gradient_is_summed_over_all_pairs_of_a_bucket() -> None:
    scheme = RelativeBias(2, 8, 6)
    length = 9
    upstream = torch.randn(1, 2, length, length, generator=torch.Generator().manual_seed(0))
    bias = scheme.bias(length, length, causal=False, device=torch.device("cpu"), dtype=torch.float32)
    (bias * upstream).sum().backward()
    expected = torch.zeros(8, 2)
    for query in range(length):
        for key in range(length):
            expected[distance_buckets(torch.tensor(key - query), 8, 6)] += upstream[0, :, query, key]
    torch.testing.assert_close(scheme.table.weight.grad, expected)
    assert expected[-1].count_nonzero() == 0  # the bucket that is never used


def network(position: RelativeBias, **options: Any) -> Transformer:
    torch.manual_seed(0)
    return Transformer(
        vocab_size=20, hidden_size=16, num_layers=2, num_heads=2, causal=False, position=position, initializer_std=0.4,
        **options,
    )  # fmt: skip


def test_it_is_how_a_model_knows_order() -> None:
    ids = torch.tensor([[3, 4, 5, 6, 7, 8]])
    swapped = ids[:, [0, 2, 1, 3, 4, 5]]
    model = network(RelativeBias(2, 8, 6))
    assert not torch.allclose(model(ids)[0, 0], model(swapped)[0, 0], atol=1e-3)
    torch.nn.init.zeros_(model.position.table.weight)  # type: ignore[union-attr, arg-type]
    torch.testing.assert_close(model(ids)[0, 0], model(swapped)[0, 0])


def test_absolute_positions_come_on_top() -> None:
    plain, both = network(RelativeBias(2, 8, 6)), network(RelativeBias(2, 8, 6, Learned(10, 16)))
    assert (plain.max_length, both.max_length) == (None, 10)
    assert sum(p.numel() for p in both.parameters()) == sum(p.numel() for p in plain.parameters()) + 160
    ids = torch.tensor([[5, 5, 5, 5]])
    both.load_state_dict(plain.state_dict(), strict=False)
    assert not torch.allclose(plain(ids), both(ids))
    torch.nn.init.zeros_(both.position.absolute.table.weight)  # type: ignore[union-attr, arg-type]
    torch.testing.assert_close(plain(ids), both(ids))


def test_the_table_is_drawn_like_an_embedding() -> None:
    model = network(RelativeBias(2, 128, 256))
    assert model.position.table.weight.std().item() == pytest.approx(0.4, rel=0.2)  # type: ignore[union-attr, operator]


def test_padding_changes_nothing_and_layers_share_one_table() -> None:
    model = network(RelativeBias(2, 8, 6)).eval()
    ids = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]])
    padded = torch.nn.functional.pad(ids, (0, 3))
    mask = torch.nn.functional.pad(torch.ones_like(ids), (0, 3))
    torch.testing.assert_close(model(padded, attention_mask=mask)[:, :4], model(ids))
    assert [name for name, _ in model.named_parameters() if "position" in name] == ["position.table.weight"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_buckets": 30}, "`num_buckets` must be a multiple of 4 and at least 8, but is 30"),
        ({"num_buckets": 4}, "but is 4; use `model.position.num_buckets=32`"),
        (
            {"num_buckets": 64, "max_distance": 17},
            r"`max_distance` must be more than a quarter of `num_buckets` \(16\)",
        ),
    ],
)
def test_sizes_without_sense(options: dict[str, int], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        RelativeBias(2, **options)


def test_sizes_of_another_model() -> None:
    with pytest.raises(InputError, match=r"`num_heads` of the relative positions must be that of the model \(2\)"):
        network(RelativeBias(4, 8, 6))
    with pytest.raises(InputError, match=r"must be that of the embeddings \(16\), but is 8; use `model.position.abs"):
        network(RelativeBias(2, 8, 6, Learned(10, 8)))
