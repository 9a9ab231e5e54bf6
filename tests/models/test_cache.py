from __future__ import annotations

import pytest
import torch

from lmmodules.errors import InputError
from lmmodules.models import Alibi, KVCache, Learned, NoPosition, Rotary, Sinusoidal, Transformer


def model(position=None, **changes):
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "hidden_size": 16, "num_layers": 2, "num_heads": 4, "initializer_std": 0.3}
    return Transformer(causal=True, position=position, **{**sizes, **changes}).double().eval()


def tokens(*shape):
    return torch.randint(0, 20, shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("chunk", [1, 7])
@pytest.mark.parametrize(
    "position",
    [Learned(20, 16), Sinusoidal(), Rotary(), Alibi(4), NoPosition()],
    ids=["learned", "sinusoidal", "rotary", "alibi", "none"],
)
def test_chunks_equal_the_whole(position, chunk):
    network = model(position, num_kv_heads=2)
    ids = tokens(2, 17)
    cache = KVCache.for_backbone(network, 2, 20)
    parts = [network(part, cache=cache) for part in ids.split(chunk, dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), network(ids), atol=1e-12, rtol=0)
    assert cache.keys.shape == (2, 2, 2, 20, 4)
    assert cache.keys.dtype == torch.float64


def test_crop_takes_back_tokens():
    network = model()
    ids = tokens(1, 8)
    cache = KVCache.for_backbone(network, 1, 8)
    network(ids[:, :6], cache=cache)
    cache.crop(4)
    torch.testing.assert_close(network(ids[:, 4:], cache=cache), network(ids)[:, 4:], atol=1e-12, rtol=0)
    with pytest.raises(InputError, match="`length` must be between 0 and the 8 cached tokens, but is 9"):
        cache.crop(9)


def test_reorder_lets_sequences_continue_others():
    network = model()
    ids = tokens(3, 6)
    cache = KVCache.for_backbone(network, 3, 6)
    network(ids[:, :5], cache=cache)
    parents = torch.tensor([2, 2, 0])
    cache.reorder(parents)
    whole = network(torch.cat([ids[parents, :5], ids[:, 5:]], 1))
    torch.testing.assert_close(network(ids[:, 5:], cache=cache), whole[:, 5:], atol=1e-12, rtol=0)


def test_the_end_of_the_cache():
    network = model()
    cache = KVCache.for_backbone(network, 1, 4)
    with pytest.raises(InputError, match="`max_length` of the cache is 4, but 5 tokens were given"):
        network(tokens(1, 5), cache=cache)
    learned = model(Learned(4, 16))
    cache = KVCache.for_backbone(learned, 1, 9)
    learned(tokens(1, 4), cache=cache)
    with pytest.raises(InputError, match="`max_length` is 4, but a sequence has 5 tokens"):
        learned(tokens(1, 1), cache=cache)


def test_what_a_cache_cannot_do():
    network = model()
    cache = KVCache.for_backbone(network, 1, 8)
    with pytest.raises(InputError, match="`document_ids` cannot be used with a `cache`"):
        network(tokens(1, 4), document_ids=torch.zeros(1, 4, dtype=torch.long), cache=cache)
    network.causal = False
    with pytest.raises(InputError, match="`cache` needs a causal model"):
        network(tokens(1, 4), cache=cache)
