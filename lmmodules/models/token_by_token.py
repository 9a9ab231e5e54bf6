"""The transformer on one new token of each sequence, which is how it writes.

A product of one row is over so soon that calling modules, and asking what only longer input needs, takes as long as the
arithmetic. Here the same operators run on the same weights without either, to the same numbers. Query heads that share
keys and values go to the attention kernel as so many queries of one head, so that nothing is repeated for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmmodules.models.attention import Attention, rotate
from lmmodules.models.backbone import Backbone
from lmmodules.models.block import Block
from lmmodules.models.cache import KVCache
from lmmodules.models.mlp import MLP
from lmmodules.models.transformer import Transformer

Operator = Callable[[Tensor], Tensor]
Reader = Callable[[Tensor, KVCache, Tensor | None], Tensor]
"""Takes new tokens (B,), the cache of those before, and which of all are no padding, (B, length + 1) or `None` where
all are; appends to the cache and returns hidden states (B, D)."""

_MODULES = (Block, Attention, MLP, nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.Identity, nn.Dropout)
_PLAIN = (Tensor, nn.Parameter)


def reader(backbone: Backbone) -> Reader:
    """The fastest way in which a causal backbone reads token by token.

    Args:
        backbone: In evaluation mode. One that is not our transformer, whose modules were exchanged, hooked or wrapped,
            or whose weights are spread over ranks, is called as it is; so is every one under autocast, which keeps what
            it has cast for modules alone.
    """
    autocast = torch.is_autocast_enabled(backbone.token_embedding.weight.device.type)
    if isinstance(backbone, Transformer) and not autocast and _is_as_built(backbone):
        return TokenByToken(backbone)

    def read(tokens: Tensor, cache: KVCache, attention_mask: Tensor | None = None) -> Tensor:
        return backbone(tokens[:, None], attention_mask=attention_mask, cache=cache)[:, 0]

    return read


class TokenByToken:
    """`Transformer.forward` with a cache and one token per sequence, by operators instead of modules.

    Args:
        transformer: Causal, in evaluation mode, of plain modules; its weights are used where they lie.
    """

    def __init__(self, transformer: Transformer) -> None:
        self.transformer = transformer
        self._embeddings = transformer.token_embedding.weight
        self._layers = [_Layer.of(block) for block in transformer.blocks if isinstance(block, Block)]
        self._final_norm = _operator(transformer.final_norm)

    def __call__(self, tokens: Tensor, cache: KVCache, attention_mask: Tensor | None = None) -> Tensor:
        """Hidden states (B, D) of new tokens.

        Args:
            tokens: (B,) ids.
            cache: Keys and values of earlier tokens; those of these are added to it.
            attention_mask: (B, length + 1), 1 at tokens and 0 at padding, the cached ones included; `None` where
                there is no padding.

        Raises:
            InputError: When a sequence becomes longer than `max_length` or than the cache.
        """
        hidden, visibility, rotation = self.transformer.prepare(
            F.embedding(tokens[:, None], self._embeddings), cache=cache, attention_mask=attention_mask
        )
        hidden = hidden[:, 0]
        if rotation is not None:
            cosine, sine = rotation
            rotation = cosine[:, 0], sine[:, 0]  # (1 or B, 1, 1, K / 2)
        mask = visibility.mask
        if mask is not None and mask.shape[1] > 1:
            # (1 or B, H, 1, keys): the heads of a group are its queries.
            mask = mask.view(len(mask), -1, self._layers[0].group_size, mask.shape[3])
        for layer, weights in enumerate(self._layers):
            hidden = weights(hidden, mask, rotation, cache, layer)
        cache.advance(1)
        return self._final_norm(hidden)


@dataclass(frozen=True, slots=True)
class _Layer:
    """The operators of a block."""

    pre_norm: bool
    group_size: int
    head_dim: int
    attention_norm: Operator
    query_key_value: Operator
    output: Operator
    mlp_norm: Operator
    mlp: Operator

    @classmethod
    def of(cls, block: Block) -> _Layer:
        attention = block.attention
        return cls(
            block.pre_norm,
            attention.group_size,
            attention.head_dim,
            _operator(block.attention_norm),
            _operator(attention.query_key_value),
            _operator(attention.output),
            _operator(block.mlp_norm),
            _operator(block.mlp),
        )

    def __call__(
        self,
        hidden: Tensor,
        mask: Tensor | None,
        rotation: tuple[Tensor, Tensor] | None,
        cache: KVCache,
        layer: int,
    ) -> Tensor:
        """Hidden states (B, D) to (B, D)."""
        if self.pre_norm:
            hidden = hidden + self.attend(self.attention_norm(hidden), mask, rotation, cache, layer)
            return hidden + self.mlp(self.mlp_norm(hidden))
        hidden = self.attention_norm(hidden + self.attend(hidden, mask, rotation, cache, layer))
        return self.mlp_norm(hidden + self.mlp(hidden))

    def attend(
        self,
        hidden: Tensor,
        mask: Tensor | None,
        rotation: tuple[Tensor, Tensor] | None,
        cache: KVCache,
        layer: int,
    ) -> Tensor:
        """What the new tokens gather, (B, D)."""
        batch, queries = len(hidden), self.group_size
        heads = self.query_key_value(hidden).view(batch, -1, queries + 2, self.head_dim)
        if rotation is None:
            query, key, value = heads.split_with_sizes([queries, 1, 1], dim=2)
        else:
            turning, value = heads.split_with_sizes([queries + 1, 1], dim=2)
            query, key = rotate(turning, *rotation).split_with_sizes([queries, 1], dim=2)
        keys, values = cache.append(layer, key, value)
        gathered = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)  # (B, kv_heads, queries, K)
        return self.output(gathered.reshape(batch, -1))


def _operator(module: nn.Module) -> Operator:
    """What a module computes in evaluation, without the module."""
    if isinstance(module, nn.Linear):
        matrix, offset = module.weight.t(), cast("Tensor | None", module.bias)
        if offset is None:
            return lambda features: torch.mm(features, matrix)
        return lambda features: torch.addmm(offset, features, matrix)
    if isinstance(module, nn.LayerNorm):
        size, scale, shift, eps = module.normalized_shape, module.weight, module.bias, module.eps
        return lambda hidden: torch.layer_norm(hidden, size, scale, shift, eps)
    if isinstance(module, nn.RMSNorm):
        rms_size, rms_scale, rms_eps = module.normalized_shape, module.weight, module.eps
        return lambda hidden: torch.rms_norm(hidden, rms_size, rms_scale, rms_eps)
    if isinstance(module, MLP):
        up, activate, down = _operator(module.up), module.activate, _operator(module.down)
        if module.gate is None:
            return lambda hidden: down(activate(up(hidden)))
        gate = _operator(module.gate)
        return lambda hidden: down(activate(gate(hidden)) * up(hidden))
    return module


def _is_as_built(transformer: Transformer) -> bool:
    """Whether calling the modules would do nothing but what they were built for."""
    if type(transformer) is not Transformer or _is_hooked(transformer):
        return False
    blocks = (part for block in transformer.blocks for part in block.modules())
    parts = [transformer.token_embedding, *blocks, transformer.final_norm]
    return all(
        type(part) in _MODULES
        and not _is_hooked(part)
        and all(type(weight) in _PLAIN for weight in part.parameters(recurse=False))
        for part in parts
    )


def _is_hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks) or "forward" in vars(module)
