"""Configurations of transformers read as arguments of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lmmodules.errors import InputError
from lmmodules.models.alibi import Alibi
from lmmodules.models.positions import Learned, Rotary

ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
"""Their names of activations and ours."""


def convert_config(config: Any) -> dict[str, Any]:
    """Keyword arguments of `Transformer` for a configuration of transformers.

    Args:
        config: A `BertConfig`, `RobertaConfig`, `ElectraConfig`, `GPT2Config`, `BloomConfig`, `LlamaConfig`,
            `GPTNeoXConfig` or `EsmConfig`.

    Raises:
        InputError: When the family is not one of these, or a field asks for what is not supported.
    """
    return _convert(_BACKBONES, config)


def convert_head_config(config: Any) -> dict[str, Any]:
    """Keyword arguments of `LanguageModelHead` for a configuration of transformers.

    Raises:
        InputError: As `convert_config`.
    """
    return {
        "hidden_size": config.n_embd if config.model_type == "gpt2" else config.hidden_size,
        "vocab_size": config.vocab_size,
        "tied": config.tie_word_embeddings,
        "initializer_std": config.initializer_range,
        **_convert(_HEADS, config),
    }


def _convert(readers: Mapping[str, Callable[[Any], dict[str, Any]]], config: Any) -> dict[str, Any]:
    family = getattr(config, "model_type", type(config).__name__)
    if family not in readers:
        raise InputError(f"`model_type` must be one of {', '.join(readers)}, but is {family!r}")
    return readers[family](config)


def _require(config: Any, **wanted: Any) -> None:
    """Fields that have one supported value; a field that a version of transformers lacks has it."""
    for field, value in wanted.items():
        given = getattr(config, field, value)
        if given != value:
            raise InputError(f"`{field}` must be {value!r} in a {config.model_type} configuration, but is {given!r}")


def _activation(config: Any, field: str) -> str:
    given = getattr(config, field)
    if given not in ACTIVATIONS:
        raise InputError(f"`{field}` must be one of {', '.join(ACTIVATIONS)}, but is {given!r}")
    return ACTIVATIONS[given]


def _encoder(config: Any, offset: int, num_token_types: int, embedding_size: int | None = None) -> dict[str, Any]:
    _require(
        config,
        is_decoder=False,
        add_cross_attention=False,
        position_embedding_type="absolute",
        tie_word_embeddings=True,
    )
    max_length = config.max_position_embeddings - offset
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_layers": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "intermediate_size": config.intermediate_size,
        "embedding_size": embedding_size,
        "max_length": max_length,
        "causal": False,
        "position": Learned(max_length, embedding_size or config.hidden_size, offset=offset),
        "pre_norm": False,
        "norm_eps": config.layer_norm_eps,
        "activation": _activation(config, "hidden_act"),
        "embedding_norm": True,
        "num_token_types": num_token_types,
        "dropout": config.hidden_dropout_prob,
        "attention_dropout": config.attention_probs_dropout_prob,
        "initializer_std": config.initializer_range,
        "pad_id": config.pad_token_id,
    }


def _bert(config: Any) -> dict[str, Any]:
    return _encoder(config, offset=0, num_token_types=config.type_vocab_size)


def _roberta(config: Any) -> dict[str, Any]:
    # Positions are counted from one after the padding's, and a single token type is folded into their table.
    return _encoder(
        config,
        offset=config.pad_token_id + 1,
        num_token_types=0 if config.type_vocab_size == 1 else config.type_vocab_size,
    )


def _electra(config: Any) -> dict[str, Any]:
    return _encoder(config, offset=0, num_token_types=config.type_vocab_size, embedding_size=config.embedding_size)


def _esm(config: Any) -> dict[str, Any]:
    _require(
        config,
        is_decoder=False,
        add_cross_attention=False,
        tie_word_embeddings=True,
        token_dropout=False,
        is_folding_model=False,
        hidden_dropout_prob=0.0,  # as BLOOM's, below
    )
    kind = config.position_embedding_type
    if kind not in ("absolute", "rotary"):
        raise InputError(f"`position_embedding_type` must be absolute or rotary, but is {kind!r}")
    offset = config.pad_token_id + 1
    max_length = config.max_position_embeddings - offset if kind == "absolute" else config.max_position_embeddings
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_layers": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "intermediate_size": config.intermediate_size,
        "max_length": max_length,
        "causal": False,
        "position": (
            Learned(max_length, config.hidden_size, offset)
            if kind == "absolute"
            else Rotary(getattr(config, "rope_theta", 10000.0))
        ),
        "norm_eps": config.layer_norm_eps,
        "activation": "gelu",
        "embedding_norm": bool(config.emb_layer_norm_before),
        "attention_dropout": config.attention_probs_dropout_prob,
        "initializer_std": config.initializer_range,
        "pad_id": config.pad_token_id,
    }


def _gpt2(config: Any) -> dict[str, Any]:
    _require(
        config,
        add_cross_attention=False,
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        embd_pdrop=config.resid_pdrop,
    )
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.n_embd,
        "num_layers": config.n_layer,
        "num_heads": config.n_head,
        "intermediate_size": config.n_inner,
        "max_length": config.n_positions,
        "causal": True,
        "position": Learned(config.n_positions, config.n_embd),
        "norm_eps": config.layer_norm_epsilon,
        "activation": _activation(config, "activation_function"),
        "dropout": config.resid_pdrop,
        "attention_dropout": config.attn_pdrop,
        "initializer_std": config.initializer_range,
        "scale_residual_init": True,
    }


def _bloom(config: Any) -> dict[str, Any]:
    # Its dropout skips the embeddings, which ours does not; released models have none.
    _require(config, apply_residual_connection_post_layernorm=False, hidden_dropout=0.0)
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_layers": config.n_layer,
        "num_heads": config.n_head,
        "causal": True,
        "position": Alibi(config.n_head),
        "norm_eps": config.layer_norm_epsilon,
        "activation": "gelu_tanh",
        "embedding_norm": True,
        "attention_dropout": config.attention_dropout,
        "initializer_std": config.initializer_range,
    }


def _llama(config: Any) -> dict[str, Any]:
    _require(config, hidden_act="silu", mlp_bias=config.attention_bias)
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_layers": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "num_kv_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
        "max_length": config.max_position_embeddings,
        "causal": True,
        "position": Rotary(_rope_theta(config)),
        "norm": "rms_norm",
        "norm_eps": config.rms_norm_eps,
        "activation": "swiglu",
        "bias": config.attention_bias,
        "attention_dropout": config.attention_dropout,
        "initializer_std": config.initializer_range,
        "pad_id": config.pad_token_id,
    }


def _gpt_neox(config: Any) -> dict[str, Any]:
    _require(config, use_parallel_residual=False, attention_bias=True)
    parameters = getattr(config, "rope_parameters", None) or {}
    share = parameters.get("partial_rotary_factor", getattr(config, "rotary_pct", 1.0))
    if share != 1.0:
        raise InputError(f"`rotary_pct` must be 1.0 in a gpt_neox configuration, but is {share!r}")
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_layers": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "intermediate_size": config.intermediate_size,
        "max_length": config.max_position_embeddings,
        "causal": True,
        "position": Rotary(_rope_theta(config)),
        "norm_eps": config.layer_norm_eps,
        "activation": _activation(config, "hidden_act"),
        "dropout": config.hidden_dropout,
        "attention_dropout": config.attention_dropout,
        "initializer_std": config.initializer_range,
    }


def _rope_theta(config: Any) -> float:
    """Base of the rotary wavelengths: in `rope_parameters` since transformers 5, beside `rope_scaling` before."""
    parameters = getattr(config, "rope_parameters", None)
    scaling = parameters or getattr(config, "rope_scaling", None) or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind != "default":
        field = "rope_parameters" if parameters else "rope_scaling"
        raise InputError(
            f"`{field}` must be of type 'default', because scaled rotary is not supported, but is {kind!r}"
        )
    older = getattr(config, "rope_theta", getattr(config, "rotary_emb_base", 10000.0))
    return float(scaling.get("rope_theta", older))


_BACKBONES = {
    "bert": _bert,
    "roberta": _roberta,
    "electra": _electra,
    "gpt2": _gpt2,
    "bloom": _bloom,
    "llama": _llama,
    "gpt_neox": _gpt_neox,
    "esm": _esm,
}


def _transform(config: Any) -> dict[str, Any]:
    """RoBERTa's, ELECTRA's and ESM's heads are GELU whatever the body is."""
    return {"transform": True, "norm_eps": config.layer_norm_eps, "bias": True}


def _plain(config: Any) -> dict[str, Any]:
    return {}


_HEADS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "bert": lambda config: {**_transform(config), "activation": _activation(config, "hidden_act")},
    "roberta": _transform,
    "electra": lambda config: {**_transform(config), "embedding_size": config.embedding_size},
    "gpt2": _plain,
    "bloom": _plain,
    "llama": _plain,
    "gpt_neox": _plain,
    "esm": _transform,
}
