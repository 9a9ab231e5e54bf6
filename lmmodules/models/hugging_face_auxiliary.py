"""A smaller network beside one of transformers: of its family, on its embeddings."""

from __future__ import annotations

import copy
from typing import Any, Literal

from lmmodules.errors import InputError
from lmmodules.models.hugging_face_backbone import HuggingFaceBackbone
from lmmodules.models.hugging_face_fields import plain_fields


def smaller(main: HuggingFaceBackbone, depth: float, width: float, dropout: float | None) -> HuggingFaceBackbone:
    """A network of the same configuration, newly drawn, with other depth and width.

    Args:
        main: The wrapped model.
        depth: Share of its layers, rounded, and at least one.
        width: Share of its heads, hidden size and inner size, rounded to whole heads, and at least one.
        dropout: Probability of dropping; `None` for that of `main`.
    """
    config: Any = copy.deepcopy(main.model.config)
    num_layers = max(1, round(depth * main.num_layers))
    for name, value in config.to_dict().items():
        if isinstance(value, list) and len(value) == main.num_layers:  # the kind of each layer
            setattr(config, name, value[:num_layers])
        elif dropout is not None and "dropout" in name and type(value) in (int, float):
            setattr(config, name, dropout)
    config.num_hidden_layers = num_layers
    num_heads = max(1, round(width * main.num_heads))
    if num_heads != main.num_heads:
        config.num_attention_heads = num_heads
        for name in ("hidden_size", "intermediate_size"):
            setattr(config, name, getattr(config, name) * num_heads // main.num_heads)
        if hasattr(config, "num_key_value_heads"):
            group = main.num_heads // main.num_kv_heads
            config.num_key_value_heads = num_heads // group if num_heads % group == 0 else num_heads
    return HuggingFaceBackbone(config=plain_fields(config), causal=main.causal)


def share(
    encoder: HuggingFaceBackbone, main: HuggingFaceBackbone, shared: Literal["embeddings", "tokens", "none"]
) -> None:
    """Give a network the embeddings of another of its family.

    Args:
        encoder: Made by `smaller`.
        main: The wrapped model.
        shared: `tokens`; `embeddings`, which is all that the family embeds together with them, such as positions and
            segments, and their norm and dropout; or `none`.

    Raises:
        InputError: When hidden states of another size would have to be embeddings.
    """
    if shared == "none":
        return
    if encoder.token_embedding.embedding_dim != main.token_embedding.embedding_dim:
        raise InputError(
            f"`auxiliary_width` must be 1 beside a `{type(main.model).__name__}`, whose embeddings are as large as its "
            f"hidden states, but is {encoder.num_heads / main.num_heads:g}; use `objective.auxiliary_width=1`"
        )
    name = next(name for name, module in main.model.named_modules() if module is main.token_embedding)
    folder = name.partition(".")[0]
    together = main.model.get_submodule(folder)
    if shared == "embeddings" and main.blocks not in list(together.modules()):
        encoder.model.set_submodule(folder, together)
    else:
        encoder.model.set_input_embeddings(main.token_embedding)  # type: ignore[operator]
