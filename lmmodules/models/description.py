"""What a transformer is, read off its modules, so that two can be compared and one be told to others."""

from __future__ import annotations

import inspect
from typing import Any, cast

from torch import nn

from lmmodules.models.block import Block
from lmmodules.models.transformer import Transformer


def describe(backbone: Transformer) -> dict[str, Any]:
    """All that decides a network's numbers besides its weights, by the names of the arguments that say it.

    Of the positions, `position` is the name of the class and `position.theta` (say) an argument of it.

    Args:
        backbone: A network, on any device.
    """
    block = cast(Block, backbone.blocks[0])
    return {
        "vocab_size": backbone.vocab_size,
        "hidden_size": backbone.hidden_size,
        "num_layers": backbone.num_layers,
        "num_heads": backbone.num_heads,
        "num_kv_heads": backbone.num_kv_heads,
        "head_dim": backbone.head_dim,
        "intermediate_size": backbone.intermediate_size,
        "embedding_size": backbone.token_embedding.embedding_dim,
        "causal": backbone.causal,
        "pre_norm": block.pre_norm,
        "norm": "rms_norm" if isinstance(block.attention_norm, nn.RMSNorm) else "layer_norm",
        "norm_eps": backbone.norm_eps,
        "activation": block.mlp.activation,
        "bias": block.attention.output.bias is not None,
        "embedding_norm": not isinstance(backbone.embedding_norm, nn.Identity),
        "num_token_types": backbone.num_token_types,
        "position": type(backbone.position).__name__,
        **_describe_position(backbone.position),
    }


def _describe_position(position: nn.Module) -> dict[str, Any]:
    """The scheme's own arguments: not the sizes that it shares with the network."""
    own = [name for name in inspect.signature(type(position)).parameters if name not in ("hidden_size", "num_heads")]
    arguments = {f"position.{name}": getattr(position, name) for name in own if hasattr(position, name)}
    return {name: type(value).__name__ if isinstance(value, nn.Module) else value for name, value in arguments.items()}
