"""What each family of transformers can express, and the configuration that says it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Fields = dict[str, Any]
Needs = dict[str, tuple[Any, ...]]

ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}
"""Our names of activations and theirs."""


@dataclass(frozen=True)
class Form:
    """A family of transformers, seen from ours.

    Attributes:
        with_head: Its class with a language-model head.
        bare: Its class without one.
        needs: Values that a network must have, by the names of `describe`. Where one size must follow from others, it
            is what it must be, in words.
        head: Values that its head must have, by the names of its arguments.
        fields: The configuration for a description and the ids of special tokens by role.
        skips_padding: Whether its position table begins with rows that no token uses, up to that of padding's id.
    """

    with_head: str
    bare: str
    needs: Needs
    head: Needs
    fields: Callable[[Fields, Mapping[str, int]], Fields]
    skips_padding: bool = field(default=False)


def _encoder_fields(traits: Fields, token_ids: Mapping[str, int]) -> Fields:
    return {
        "hidden_size": traits["hidden_size"],
        "num_hidden_layers": traits["num_layers"],
        "num_attention_heads": traits["num_heads"],
        "intermediate_size": traits["intermediate_size"],
        "hidden_act": ACTIVATIONS[traits["activation"]],
        "hidden_dropout_prob": traits["dropout"],
        "attention_probs_dropout_prob": traits["attention_dropout"],
        "max_position_embeddings": traits.get("position.max_length", traits["max_length"]),
        "type_vocab_size": traits["num_token_types"] or 1,
        "layer_norm_eps": traits["norm_eps"],
    }


def _roberta_fields(traits: Fields, token_ids: Mapping[str, int]) -> Fields:
    return {
        **_encoder_fields(traits, token_ids),
        "max_position_embeddings": traits["position.max_length"] + token_ids["pad"] + 1,
    }


def _electra_fields(traits: Fields, token_ids: Mapping[str, int]) -> Fields:
    return {**_encoder_fields(traits, token_ids), "embedding_size": traits["embedding_size"]}


def _esm_fields(traits: Fields, token_ids: Mapping[str, int]) -> Fields:
    if traits["position"] == "Learned":
        fields = {**_roberta_fields(traits, token_ids), "position_embedding_type": "absolute"}
    else:
        fields = {**_encoder_fields(traits, token_ids), "position_embedding_type": "rotary"}
    masks = {"mask_token_id": token_ids["mask"]} if "mask" in token_ids else {}
    return {**fields, **masks, "emb_layer_norm_before": traits["embedding_norm"], "token_dropout": False}


def _gpt2_fields(traits: Fields, token_ids: Mapping[str, int]) -> Fields:
    return {
        "n_positions": traits["position.max_length"],
        "n_embd": traits["hidden_size"],
        "n_layer": traits["num_layers"],
        "n_head": traits["num_heads"],
        "n_inner": traits["intermediate_size"],
        "activation_function": ACTIVATIONS[traits["activation"]],
        "resid_pdrop": traits["dropout"],
        "embd_pdrop": traits["dropout"],
        "attn_pdrop": traits["attention_dropout"],
        "layer_norm_epsilon": traits["norm_eps"],
    }


def _bloom_fields(traits: Fields, token_ids: Mapping[str, int]) -> Fields:
    return {
        "hidden_size": traits["hidden_size"],
        "n_layer": traits["num_layers"],
        "n_head": traits["num_heads"],
        "hidden_dropout": traits["dropout"],
        "attention_dropout": traits["attention_dropout"],
        "layer_norm_epsilon": traits["norm_eps"],
    }


def _rotary_fields(traits: Fields) -> Fields:
    """The base of the wavelengths, as transformers 5 reads it and as earlier ones do."""
    theta = traits["position.theta"]
    return {
        "max_position_embeddings": traits["max_length"],
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "rope_theta": theta,
    }


def _llama_fields(traits: Fields, token_ids: Mapping[str, int]) -> Fields:
    return {
        "hidden_size": traits["hidden_size"],
        "num_hidden_layers": traits["num_layers"],
        "num_attention_heads": traits["num_heads"],
        "num_key_value_heads": traits["num_kv_heads"],
        "head_dim": traits["head_dim"],
        "intermediate_size": traits["intermediate_size"],
        "hidden_act": "silu",
        "rms_norm_eps": traits["norm_eps"],
        "attention_bias": traits["bias"],
        "mlp_bias": traits["bias"],
        "attention_dropout": traits["attention_dropout"],
        **_rotary_fields(traits),
    }


def _gpt_neox_fields(traits: Fields, token_ids: Mapping[str, int]) -> Fields:
    rotary = _rotary_fields(traits)
    rotary["rope_parameters"]["partial_rotary_factor"] = 1.0
    return {
        "hidden_size": traits["hidden_size"],
        "num_hidden_layers": traits["num_layers"],
        "num_attention_heads": traits["num_heads"],
        "intermediate_size": traits["intermediate_size"],
        "hidden_act": ACTIVATIONS[traits["activation"]],
        "hidden_dropout": traits["dropout"],
        "attention_dropout": traits["attention_dropout"],
        "layer_norm_eps": traits["norm_eps"],
        "use_parallel_residual": False,
        "attention_bias": True,
        "rotary_pct": 1.0,
        "rotary_emb_base": traits["position.theta"],
        **rotary,
    }


_SMOOTH = ("gelu", "gelu_tanh", "relu")
_ONE_SIZE: Needs = {
    "num_kv_heads": ("num_heads",),
    "head_dim": ("hidden_size / num_heads",),
    "embedding_size": ("hidden_size",),
}
_ENCODER: Needs = {
    "causal": (False,),
    "pre_norm": (False,),
    "norm": ("layer_norm",),
    "activation": _SMOOTH,
    "bias": (True,),
    "embedding_norm": (True,),
    "position": ("Learned",),
    **_ONE_SIZE,
}
_DECODER: Needs = {
    "causal": (True,),
    "pre_norm": (True,),
    "norm": ("layer_norm",),
    "activation": _SMOOTH,
    "bias": (True,),
    "embedding_norm": (False,),
    "num_token_types": (0,),
    **_ONE_SIZE,
}
_PADDING: Needs = {"pad token": ("there",)}
_TRANSFORM: Needs = {"transform": (True,), "bias": (True,), "tied": (True,), "norm_eps": ("that of the network",)}
_GELU: Needs = {**_TRANSFORM, "activation": ("gelu",)}
_PLAIN: Needs = {"transform": (False,), "bias": (False,)}

FORMS: dict[str, Form] = {
    "bert": Form(
        "BertForMaskedLM",
        "BertModel",
        {**_ENCODER, "position.offset": (0,)},
        {**_TRANSFORM, "same activation": (True,)},
        _encoder_fields,
    ),
    "roberta": Form(
        "RobertaForMaskedLM", "RobertaModel", {**_ENCODER, **_PADDING}, _GELU, _roberta_fields, skips_padding=True
    ),
    "electra": Form(
        "ElectraForMaskedLM",
        "ElectraModel",
        {name: values for name, values in _ENCODER.items() if name != "embedding_size"},
        _GELU,
        _electra_fields,
    ),
    "esm": Form(
        "EsmForMaskedLM",
        "EsmModel",
        {
            **_ENCODER,
            **_PADDING,
            "pre_norm": (True,),
            "activation": ("gelu",),
            "embedding_norm": (True, False),
            "position": ("Learned", "Rotary"),
            "position.theta": (None, 10000.0),  # before transformers 5 it has this base and no other
            "num_token_types": (0,),
        },
        _GELU,
        _esm_fields,
        skips_padding=True,
    ),
    "gpt2": Form("GPT2LMHeadModel", "GPT2Model", {**_DECODER, "position": ("Learned",)}, _PLAIN, _gpt2_fields),
    "bloom": Form(
        "BloomForCausalLM",
        "BloomModel",
        {
            **_DECODER,
            "position": ("Alibi",),
            "activation": ("gelu_tanh",),
            "embedding_norm": (True,),
            "intermediate_size": ("4 * hidden_size",),
        },
        _PLAIN,
        _bloom_fields,
    ),
    "gpt_neox": Form(
        "GPTNeoXForCausalLM", "GPTNeoXModel", {**_DECODER, "position": ("Rotary",)}, _PLAIN, _gpt_neox_fields
    ),
    "llama": Form(
        "LlamaForCausalLM",
        "LlamaModel",
        {
            "causal": (True,),
            "pre_norm": (True,),
            "norm": ("rms_norm",),
            "activation": ("swiglu",),
            "embedding_norm": (False,),
            "num_token_types": (0,),
            "position": ("Rotary",),
            "embedding_size": ("hidden_size",),
        },
        _PLAIN,
        _llama_fields,
    ),
}
"""By `model_type`; the first that can express a network is taken."""
