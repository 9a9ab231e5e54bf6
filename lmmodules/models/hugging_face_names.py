"""Names of transformers' tensors and ours, one table per family of models."""

from __future__ import annotations

from dataclasses import dataclass, field

from lmmodules.models.arrangements import (
    SAME,
    TRANSPOSED,
    Arrangement,
    FusedHeads,
    TransposedFusedHeads,
)


@dataclass(frozen=True)
class Counterpart:
    """The tensors of transformers that stand for one of ours, and how they are arranged."""

    names: tuple[str, ...]
    arrangement: Arrangement = SAME


@dataclass(frozen=True)
class Family:
    """Names of one family of models.

    Attributes:
        prefix: What the names of the body begin with in a model with a head, and may lack in one without.
        body: Our names in the backbone, with `#` for the index of a block, and their counterparts.
        head: The same for the head.
        copies: Tensors of transformers that repeat another one when the head is tied.
        renamed: What a name begins with in some files, and what it begins with here.
        ignored: Patterns of what is left out when loading: other heads, and buffers.
    """

    prefix: str
    body: dict[str, Counterpart]
    head: dict[str, Counterpart] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()


def _pair(ours: str, *theirs: str, arrangement: Arrangement = SAME) -> dict[str, Counterpart]:
    """Weight and bias of one module."""
    return {
        f"{ours}.{kind}": Counterpart(tuple(f"{name}.{kind}" for name in theirs), arrangement)
        for kind in ("weight", "bias")
    }


def _matrix_with_bias(ours: str, theirs: str) -> dict[str, Counterpart]:
    """A matrix that is stored transposed, and its bias, which is not."""
    return {
        f"{ours}.weight": Counterpart((f"{theirs}.weight",), TRANSPOSED),
        f"{ours}.bias": Counterpart((f"{theirs}.bias",)),
    }


def _encoder(name: str) -> dict[str, Counterpart]:
    """The body that BERT, RoBERTa and ELECTRA share."""
    layer, embeddings = f"{name}.encoder.layer.#", f"{name}.embeddings"
    attention = f"{layer}.attention.self"
    return {
        "token_embedding.weight": Counterpart((f"{embeddings}.word_embeddings.weight",)),
        "token_type_embedding.weight": Counterpart((f"{embeddings}.token_type_embeddings.weight",)),
        "position.table.weight": Counterpart((f"{embeddings}.position_embeddings.weight",)),
        **_pair("embedding_norm", f"{embeddings}.LayerNorm"),
        **_pair(
            "blocks.#.attention.query_key_value",
            f"{attention}.query",
            f"{attention}.key",
            f"{attention}.value",
            arrangement=FusedHeads(),
        ),
        **_pair("blocks.#.attention.output", f"{layer}.attention.output.dense"),
        **_pair("blocks.#.attention_norm", f"{layer}.attention.output.LayerNorm"),
        **_pair("blocks.#.mlp.up", f"{layer}.intermediate.dense"),
        **_pair("blocks.#.mlp.down", f"{layer}.output.dense"),
        **_pair("blocks.#.mlp_norm", f"{layer}.output.LayerNorm"),
    }


BERT = Family(
    prefix="bert.",
    body=_encoder("bert"),
    head={
        **_pair("dense", "cls.predictions.transform.dense"),
        **_pair("norm", "cls.predictions.transform.LayerNorm"),
        "bias": Counterpart(("cls.predictions.bias",)),
    },
    copies={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    ignored=(r"bert\.pooler\..*", r"cls\.seq_relationship\..*", r"bert\.embeddings\.position_ids"),
)

ROBERTA = Family(
    prefix="roberta.",
    body=_encoder("roberta"),
    head={
        **_pair("dense", "lm_head.dense"),
        **_pair("norm", "lm_head.layer_norm"),
        "bias": Counterpart(("lm_head.bias",)),
    },
    copies={
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
    ignored=(r"roberta\.pooler\..*", r"roberta\.embeddings\.position_ids"),
)

ELECTRA = Family(
    prefix="electra.",
    body={**_encoder("electra"), **_pair("embedding_projection", "electra.embeddings_project")},
    head={
        **_pair("dense", "generator_predictions.dense"),
        **_pair("norm", "generator_predictions.LayerNorm"),
        "bias": Counterpart(("generator_lm_head.bias",)),
    },
    copies={"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"},
    ignored=(r"discriminator_predictions\..*", r"electra\.embeddings\.position_ids"),
)

ESM = Family(
    prefix="esm.",
    body={
        **{ours: theirs for ours, theirs in _encoder("esm").items() if ours != "token_type_embedding.weight"},
        **_pair("embedding_norm", "esm.embeddings.layer_norm"),
        **_pair("blocks.#.attention_norm", "esm.encoder.layer.#.attention.LayerNorm"),
        **_pair("blocks.#.mlp_norm", "esm.encoder.layer.#.LayerNorm"),
        **_pair("final_norm", "esm.encoder.emb_layer_norm_after"),
    },
    head={
        **_pair("dense", "lm_head.dense"),
        **_pair("norm", "lm_head.layer_norm"),
        "bias": Counterpart(("lm_head.bias",)),
    },
    copies={"lm_head.decoder.weight": "esm.embeddings.word_embeddings.weight"},
    ignored=(
        r"esm\.(pooler|contact_head)\..*",
        r"esm\.embeddings\.position_ids",
        r"esm\..*rotary_embeddings\.inv_freq",
    ),
)

GPT2 = Family(
    prefix="transformer.",
    body={
        "token_embedding.weight": Counterpart(("transformer.wte.weight",)),
        "position.table.weight": Counterpart(("transformer.wpe.weight",)),
        **_pair("blocks.#.attention_norm", "transformer.h.#.ln_1"),
        **_pair(
            "blocks.#.attention.query_key_value", "transformer.h.#.attn.c_attn", arrangement=TransposedFusedHeads()
        ),
        **_matrix_with_bias("blocks.#.attention.output", "transformer.h.#.attn.c_proj"),
        **_pair("blocks.#.mlp_norm", "transformer.h.#.ln_2"),
        **_matrix_with_bias("blocks.#.mlp.up", "transformer.h.#.mlp.c_fc"),
        **_matrix_with_bias("blocks.#.mlp.down", "transformer.h.#.mlp.c_proj"),
        **_pair("final_norm", "transformer.ln_f"),
    },
    head={"weight": Counterpart(("lm_head.weight",))},
    copies={"lm_head.weight": "transformer.wte.weight"},
    ignored=(r"transformer\.h\.\d+\.attn\.(masked_)?bias",),
)

BLOOM = Family(
    prefix="transformer.",
    body={
        "token_embedding.weight": Counterpart(("transformer.word_embeddings.weight",)),
        **_pair("embedding_norm", "transformer.word_embeddings_layernorm"),
        **_pair("blocks.#.attention_norm", "transformer.h.#.input_layernorm"),
        # Already laid out head by head as query, key and value.
        **_pair("blocks.#.attention.query_key_value", "transformer.h.#.self_attention.query_key_value"),
        **_pair("blocks.#.attention.output", "transformer.h.#.self_attention.dense"),
        **_pair("blocks.#.mlp_norm", "transformer.h.#.post_attention_layernorm"),
        **_pair("blocks.#.mlp.up", "transformer.h.#.mlp.dense_h_to_4h"),
        **_pair("blocks.#.mlp.down", "transformer.h.#.mlp.dense_4h_to_h"),
        **_pair("final_norm", "transformer.ln_f"),
    },
    head={"weight": Counterpart(("lm_head.weight",))},
    copies={"lm_head.weight": "transformer.word_embeddings.weight"},
)

LLAMA = Family(
    prefix="model.",
    body={
        "token_embedding.weight": Counterpart(("model.embed_tokens.weight",)),
        "blocks.#.attention_norm.weight": Counterpart(("model.layers.#.input_layernorm.weight",)),
        **_pair(
            "blocks.#.attention.query_key_value",
            "model.layers.#.self_attn.q_proj",
            "model.layers.#.self_attn.k_proj",
            "model.layers.#.self_attn.v_proj",
            arrangement=FusedHeads(),
        ),
        **_pair("blocks.#.attention.output", "model.layers.#.self_attn.o_proj"),
        "blocks.#.mlp_norm.weight": Counterpart(("model.layers.#.post_attention_layernorm.weight",)),
        **_pair("blocks.#.mlp.gate", "model.layers.#.mlp.gate_proj"),
        **_pair("blocks.#.mlp.up", "model.layers.#.mlp.up_proj"),
        **_pair("blocks.#.mlp.down", "model.layers.#.mlp.down_proj"),
        "final_norm.weight": Counterpart(("model.norm.weight",)),
    },
    head={"weight": Counterpart(("lm_head.weight",))},
    copies={"lm_head.weight": "model.embed_tokens.weight"},
    ignored=(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",),
)

GPT_NEOX = Family(
    prefix="gpt_neox.",
    body={
        "token_embedding.weight": Counterpart(("gpt_neox.embed_in.weight",)),
        **_pair("blocks.#.attention_norm", "gpt_neox.layers.#.input_layernorm"),
        # Laid out head by head, as BLOOM's.
        **_pair("blocks.#.attention.query_key_value", "gpt_neox.layers.#.attention.query_key_value"),
        **_pair("blocks.#.attention.output", "gpt_neox.layers.#.attention.dense"),
        **_pair("blocks.#.mlp_norm", "gpt_neox.layers.#.post_attention_layernorm"),
        **_pair("blocks.#.mlp.up", "gpt_neox.layers.#.mlp.dense_h_to_4h"),
        **_pair("blocks.#.mlp.down", "gpt_neox.layers.#.mlp.dense_4h_to_h"),
        **_pair("final_norm", "gpt_neox.final_layer_norm"),
    },
    # In files, and in memory before transformers 5, it is called `embed_out`.
    head={"weight": Counterpart(("lm_head.weight",))},
    copies={"lm_head.weight": "gpt_neox.embed_in.weight"},
    renamed={"embed_out.": "lm_head."},
    ignored=(r"gpt_neox\.layers\.\d+\.attention\.((masked_)?bias|rotary_emb\.inv_freq)",),
)

FAMILIES: dict[str, Family] = {
    "bert": BERT,
    "roberta": ROBERTA,
    "electra": ELECTRA,
    "gpt2": GPT2,
    "bloom": BLOOM,
    "llama": LLAMA,
    "gpt_neox": GPT_NEOX,
    "esm": ESM,
}
"""Families by the `model_type` of their configuration."""
