"""Published sizes, and four small ones for tests and first runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lmmodules.errors import InputError
from lmmodules.models.alibi import Alibi
from lmmodules.models.positions import Learned, PositionScheme, Rotary
from lmmodules.models.transformer import Transformer

Preset = Mapping[str, Any]
"""Arguments of `Transformer`; under `position`, what makes the scheme from the others."""


def _learned(offset: int = 0) -> Callable[[Preset], PositionScheme]:
    return lambda sizes: Learned(sizes["max_length"], sizes["hidden_size"], offset)


def _rotary(theta: float = 10000.0) -> Callable[[Preset], PositionScheme]:
    return lambda sizes: Rotary(theta)


def _alibi(sizes: Preset) -> PositionScheme:
    return Alibi(sizes["num_heads"])


_BERT = {
    "causal": False,
    "max_length": 512,
    "pre_norm": False,
    "embedding_norm": True,
    "dropout": 0.1,
    "attention_dropout": 0.1,
}
_BERT_BASE = {**_BERT, "hidden_size": 768, "num_layers": 12, "num_heads": 12}
_BERT_LARGE = {**_BERT, "hidden_size": 1024, "num_layers": 24, "num_heads": 16}
_ROBERTA = {"vocab_size": 50265, "pad_id": 1, "position": _learned(offset=2)}
_GPT2 = {
    "vocab_size": 50257,
    "causal": True,
    "max_length": 1024,
    "position": _learned(),
    "activation": "gelu_tanh",
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "scale_residual_init": True,
}
_TINY = {"hidden_size": 64, "num_layers": 2, "num_heads": 4}
_SMALL = {"hidden_size": 256, "num_layers": 4, "num_heads": 4}
_DECODER = {"causal": True, "position": _rotary(), "scale_residual_init": True}
_ENCODER = {"causal": False, "max_length": 512, "position": _learned()}

PRESETS: dict[str, Preset] = {
    # Devlin et al. 2019, section 3, uncased.
    "bert_base": {
        **_BERT_BASE,
        "vocab_size": 30522,
        "intermediate_size": 3072,
        "norm_eps": 1e-12,
        "num_token_types": 2,
        "pad_id": 0,
        "position": _learned(),
    },
    # Liu et al. 2019, table 9.
    "roberta_base": {**_BERT_BASE, **_ROBERTA},
    "roberta_large": {**_BERT_LARGE, **_ROBERTA},
    # Radford et al. 2019, table 2.
    "gpt2": {**_GPT2, "hidden_size": 768, "num_layers": 12, "num_heads": 12},
    "gpt2_medium": {**_GPT2, "hidden_size": 1024, "num_layers": 24, "num_heads": 16},
    "gpt2_large": {**_GPT2, "hidden_size": 1280, "num_layers": 36, "num_heads": 20},
    "gpt2_xl": {**_GPT2, "hidden_size": 1600, "num_layers": 48, "num_heads": 25},
    # BigScience 2022, table 3.
    "bloom_560m": {
        "vocab_size": 250880,
        "hidden_size": 1024,
        "num_layers": 24,
        "num_heads": 16,
        "causal": True,
        "position": _alibi,
        "activation": "gelu_tanh",
        "embedding_norm": True,
    },
    # Allal et al. 2025, and the released configuration.
    "smollm2_135m": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "num_layers": 30,
        "num_heads": 9,
        "num_kv_heads": 3,
        "intermediate_size": 1536,
        "causal": True,
        "max_length": 8192,
        "position": _rotary(theta=100000.0),
        "norm": "rms_norm",
        "activation": "swiglu",
        "bias": False,
        "initializer_std": 576**-0.5,
    },
    "decoder_tiny": {**_TINY, **_DECODER},
    "decoder_mini": {**_SMALL, **_DECODER, "hidden_size": 128},
    "decoder_small": {**_SMALL, **_DECODER},
    "encoder_tiny": {**_TINY, **_ENCODER},
    "encoder_small": {**_SMALL, **_ENCODER},
}
"""Arguments of `Transformer` by the name of the preset; what is not named is the default."""


def build(
    name: str,
    *,
    vocab_size: int | None = None,
    max_length: int | None = None,
    position: PositionScheme | None = None,
    dropout: float | None = None,
    attention_dropout: float | None = None,
) -> Transformer:
    """Make a preset, freshly initialised.

    Args:
        name: A key of `PRESETS`.
        vocab_size: Number of tokens; the small presets have none of their own.
        max_length: Longest sequence, in tokens, in place of the published one.
        position: A scheme in place of the published one.
        dropout: Probability in place of the published one.
        attention_dropout: Probability in place of the published one.

    Raises:
        InputError: When there is no such preset, or it needs a `vocab_size`.
    """
    if name not in PRESETS:
        raise InputError(f"`name` must be one of {', '.join(PRESETS)}, but is {name!r}")
    changes = {
        "vocab_size": vocab_size,
        "max_length": max_length,
        "dropout": dropout,
        "attention_dropout": attention_dropout,
    }
    sizes = {**PRESETS[name], **{key: value for key, value in changes.items() if value is not None}}
    if "vocab_size" not in sizes:
        raise InputError(f"`vocab_size` must be given for {name}, which has none of its own: that of the tokenizer")
    sizes["position"] = sizes["position"](sizes) if position is None else position
    return Transformer(**sizes)
