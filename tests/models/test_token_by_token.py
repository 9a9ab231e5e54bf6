"""One token of each sequence after the other, against the modules of the transformer in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lmmodules.errors import InputError
from lmmodules.models import (
    Alibi,
    KVCache,
    Learned,
    NoPosition,
    PositionScheme,
    RelativeBias,
    Rotary,
    Sinusoidal,
    Transformer,
)
from lmmodules.models.token_by_token import TokenByToken, reader

BATCH, LENGTH, VOCAB_SIZE = 3, 11, 20


def model(position: PositionScheme | None = None, **changes: Any) -> Transformer:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": VOCAB_SIZE, "hidden_size": 16, "num_layers": 2, "num_heads": 4}
    network = Transformer(**{"causal": True, "position": position, "initializer_std": 0.4, **sizes, **changes})
    for parameter in network.parameters():  # so that biases and norms are seen too
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=1.0, std=0.3)
    return network.double().eval()


def tokens(batch: int = BATCH, length: int = LENGTH) -> Tensor:
    return torch.randint(0, VOCAB_SIZE, (batch, length), generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def read(network: Transformer, ids: Tensor, mask: Tensor | None = None, prompt: int = 3) -> Tensor:
    """Hidden states (B, T - prompt, D) behind a prompt that is read at once."""
    step, cache = reader(network), KVCache.for_backbone(network, *ids.shape)
    assert isinstance(step, TokenByToken)
    network(ids[:, :prompt], attention_mask=None if mask is None else mask[:, :prompt], cache=cache)
    states = [
        step(ids[:, end - 1], cache, None if mask is None else mask[:, :end]) for end in range(prompt + 1, LENGTH + 1)
    ]
    assert cache.length == ids.shape[1]
    return torch.stack(states, dim=1)


POSITIONS: dict[str, Callable[[], PositionScheme]] = {
    "learned": lambda: Learned(LENGTH, 16, offset=2),
    "sinusoidal": Sinusoidal,
    "rotary": Rotary,
    "alibi": lambda: Alibi(4),
    "relative": lambda: RelativeBias(num_heads=4),
    "none": NoPosition,
}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("position", POSITIONS)
def test_positions_and_shared_heads(position: str, num_kv_heads: int, padded: bool) -> None:
    scheme: PositionScheme = POSITIONS[position]()
    network = model(scheme, num_kv_heads=num_kv_heads)
    mask = torch.arange(LENGTH) >= torch.tensor([0, 2, 1])[:, None] if padded else None
    expected = network(tokens(), attention_mask=mask)[:, 3:]
    torch.testing.assert_close(read(network, tokens(), mask), expected, atol=1e-11, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"pre_norm": False},
        {"norm": "rms_norm", "bias": False, "activation": "swiglu"},
        {"norm": "rms_norm", "pre_norm": False, "activation": "swiglu"},
        {"activation": "gelu_tanh", "bias": False},
        {"activation": "relu", "embedding_norm": True},
        {"num_token_types": 2, "embedding_size": 6},
        {"head_dim": 6, "num_kv_heads": 2, "num_heads": 6},
        {"dropout": 0.3, "attention_dropout": 0.2},
    ],
    ids=str,
)
def test_every_option_of_the_transformer(options: dict[str, Any]) -> None:
    network = model(**options)
    expected = network(tokens())[:, 3:]
    torch.testing.assert_close(read(network, tokens()), expected, atol=1e-11, rtol=0)


def test_low_precision_is_that_of_the_modules() -> None:
    network = model(Alibi(4), num_kv_heads=2).bfloat16()
    expected = network(tokens())[:, 3:].float()
    found = read(network, tokens()).float()
    assert (found - expected).norm() < 0.03 * expected.norm()


def test_weights_are_used_where_they_lie() -> None:
    network = model()
    step = reader(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.5)
        cache = KVCache.for_backbone(network, BATCH, 1)
        expected = network(tokens()[:, :1])[:, 0]
        torch.testing.assert_close(step(tokens()[:, 0], cache, None), expected, atol=1e-12, rtol=0)


class Another(Transformer):
    """A transformer of somebody else."""


class Doubled(nn.Linear):
    """A linear map of somebody else, as adapters are."""

    def forward(self, features: Tensor) -> Tensor:
        return 2 * super().forward(features)


class TestWhatIsNotAsBuilt:
    """Is called as it is, and gives what it gives."""

    def check(self, network: Transformer) -> None:
        step, cache = reader(network), KVCache.for_backbone(network, BATCH, LENGTH)
        assert not isinstance(step, TokenByToken)
        with torch.inference_mode():
            states = [step(tokens()[:, place], cache, None) for place in range(LENGTH)]
            torch.testing.assert_close(torch.stack(states, dim=1), network(tokens()), atol=1e-11, rtol=0)

    def test_a_subclass(self) -> None:
        network = model()
        network.__class__ = Another
        self.check(network)

    def test_an_exchanged_module(self) -> None:
        network = model()
        plain = network(tokens())
        network.blocks[1].mlp.up = Doubled(16, 64).double()  # type: ignore[union-attr]
        assert not torch.allclose(network(tokens()), plain)
        self.check(network)

    def test_a_hook(self) -> None:
        network = model()
        seen: list[int] = []
        network.blocks[0].attention.register_forward_hook(lambda *_: seen.append(1))  # type: ignore[union-attr]
        self.check(network)
        assert len(seen) == LENGTH + 1

    def test_a_hook_of_the_embedding(self) -> None:
        network = model()
        plain = network(tokens())
        network.token_embedding.register_forward_hook(lambda _, __, embeddings: 2 * embeddings)
        assert not torch.allclose(network(tokens()), plain)
        self.check(network)

    def test_a_forward_of_its_own(self) -> None:
        network = model()
        norm = network.final_norm
        inner = norm.forward
        norm.forward = lambda hidden: 3 * inner(hidden)
        self.check(network)

    def test_autocast(self) -> None:
        network = model().float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not isinstance(reader(network), TokenByToken)
        assert isinstance(reader(network), TokenByToken)


def test_sequences_that_become_too_long() -> None:
    network = model(Learned(4, 16))
    step, cache = reader(network), KVCache.for_backbone(network, BATCH, 9)
    with torch.inference_mode():
        for place in range(4):
            step(tokens()[:, place], cache, None)
        with pytest.raises(InputError, match="`max_length` is 4, but a sequence has 5 tokens"):
            step(tokens()[:, 4], cache, None)
    network = model()
    cache = KVCache.for_backbone(network, BATCH, 1)
    with torch.inference_mode():
        reader(network)(tokens()[:, 0], cache, None)
        with pytest.raises(InputError, match="`max_length` of the cache is 1, but 2 tokens were given"):
            reader(network)(tokens()[:, 1], cache, None)
