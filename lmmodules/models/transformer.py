"""The backbone of every objective: token ids in, hidden states out."""

from __future__ import annotations

import math
import os
from typing import get_args

import torch
from torch import Tensor, nn

from lmmodules.errors import InputError
from lmmodules.models.attention import Attention
from lmmodules.models.block import Block, Norm, build_norm
from lmmodules.models.cache import KVCache
from lmmodules.models.checks import check_choice, check_divides, check_length, check_positive, check_probability
from lmmodules.models.mlp import MLP, Activation
from lmmodules.models.positions import Positions, PositionScheme, Rotary
from lmmodules.models.visibility import Visibility


class Transformer(nn.Module):
    """A transformer, causal or bidirectional, without a head.

    Args:
        vocab_size: Number of token embeddings V.
        hidden_size: Size D of a hidden state.
        num_layers: Number of blocks.
        num_heads: Query heads H of a block.
        causal: Whether a token sees only itself and what came before.
        num_kv_heads: Key/value heads of a block, each shared by `num_heads / num_kv_heads` query heads; `None` for
            as many as query heads.
        head_dim: Size K of a head; `None` for `hidden_size / num_heads`.
        intermediate_size: Inner size of the MLP; `None` for four times `hidden_size`.
        embedding_size: Size E of the embeddings, which a matrix takes to `hidden_size` where they differ; `None` for
            as large as hidden states.
        max_length: Longest sequence, in tokens; `None` for that of the positions, if they have one.
        position: How the model knows the order of tokens; `None` for rotary positions.
        pre_norm: Whether norms stand before attention and MLP (and one after the last block), or after their
            residual sums.
        norm: `layer_norm`, or `rms_norm`, which neither centres nor has a bias.
        norm_eps: What norms add to the variance.
        activation: `gelu` (exact), `gelu_tanh`, `relu`, or the gated `swiglu`.
        bias: Whether matrices and LayerNorms have biases.
        embedding_norm: Whether embeddings pass a norm, as in BERT and BLOOM.
        num_token_types: Number of segment embeddings, 0 for none.
        dropout: Probability of dropping an element of the embeddings and of what each half of a block adds.
        attention_dropout: Probability of dropping an attention weight.
        initializer_std: Standard deviation of initial matrices and embeddings.
        scale_residual_init: Whether matrices that add to the residual stream start smaller by the root of their
            number, as in GPT-2.
        pad_id: Token whose embedding starts as zero and is not trained as an input.

    Raises:
        InputError: When sizes do not fit each other, naming the override that mends them.

    Source:
        Vaswani et al. 2017; Devlin et al. 2019 (`embedding_norm`, `num_token_types`, post-norm); Radford et al. 2019
        (pre-norm, `scale_residual_init`); Touvron et al. 2023 (`rms_norm`, `swiglu`, rotary); Clark et al. 2020
        (`embedding_size`).
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        causal: bool,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        intermediate_size: int | None = None,
        embedding_size: int | None = None,
        max_length: int | None = None,
        position: PositionScheme | None = None,
        pre_norm: bool = True,
        norm: Norm = "layer_norm",
        norm_eps: float = 1e-5,
        activation: Activation = "gelu",
        bias: bool = True,
        embedding_norm: bool = False,
        num_token_types: int = 0,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        initializer_std: float = 0.02,
        scale_residual_init: bool = False,
        pad_id: int | None = None,
    ) -> None:
        super().__init__()
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        intermediate_size = 4 * hidden_size if intermediate_size is None else intermediate_size
        embedding_size = hidden_size if embedding_size is None else embedding_size
        check_positive(
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            intermediate_size=intermediate_size,
            embedding_size=embedding_size,
            head_dim=head_dim,
            max_length=max_length,
        )
        check_choice("norm", norm, get_args(Norm))
        check_choice("activation", activation, get_args(Activation))
        check_probability("dropout", dropout)
        check_probability("attention_dropout", attention_dropout)
        if head_dim is None:
            check_divides("num_heads", num_heads, "hidden_size", hidden_size)
            head_dim = hidden_size // num_heads
        check_divides("num_kv_heads", num_kv_heads, "num_heads", num_heads)
        if num_token_types < 0:
            raise InputError(f"`num_token_types` must not be negative, but is {num_token_types}; use 0 for none")
        if pad_id is not None and not 0 <= pad_id < vocab_size:
            raise InputError(
                f"`pad_id` must be less than `vocab_size` ({vocab_size}), but is {pad_id}; use `model.pad_id=null`"
            )
        position = Rotary() if position is None else position
        position.check(hidden_size=embedding_size, num_heads=num_heads, head_dim=head_dim)
        if position.max_length is not None:
            if max_length is not None and max_length > position.max_length:
                raise InputError(
                    f"`max_length` must not exceed that of the positions ({position.max_length}), but is {max_length}; "
                    f"use `model.max_length={position.max_length}`"
                )
            max_length = position.max_length if max_length is None else max_length

        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_dim = head_dim
        self.intermediate_size = intermediate_size
        self.max_length = max_length
        self.causal = causal
        self.num_token_types = num_token_types
        self.norm_eps = norm_eps
        self.initializer_std = initializer_std
        self.scale_residual_init = scale_residual_init

        def build(size: int = hidden_size) -> nn.Module:
            return build_norm(norm, size, norm_eps, bias=bias)

        self.token_embedding = nn.Embedding(vocab_size, embedding_size, padding_idx=pad_id)
        self.token_type_embedding = nn.Embedding(num_token_types, embedding_size) if num_token_types else None
        self.position = position
        self.embedding_norm = build(embedding_size) if embedding_norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.embedding_projection = (
            nn.Identity() if embedding_size == hidden_size else nn.Linear(embedding_size, hidden_size, bias=bias)
        )
        self.blocks = nn.ModuleList(
            Block(
                Attention(hidden_size, num_heads, num_kv_heads, head_dim, bias=bias, dropout=attention_dropout),
                MLP(hidden_size, intermediate_size, activation=activation, bias=bias),
                attention_norm=build(),
                mlp_norm=build(),
                pre_norm=pre_norm,
                dropout=dropout,
            )
            for _ in range(num_layers)
        )
        self.final_norm = build() if pre_norm else nn.Identity()
        self.reset_parameters()

    @staticmethod
    def from_hugging_face(name_or_folder: str | os.PathLike[str], *, dtype: torch.dtype = torch.float32) -> Transformer:
        """Load a published model: BERT, RoBERTa, ELECTRA, GPT-2, BLOOM, Llama (SmolLM2), GPT-NeoX or ESM.

        Its head is left out; `hugging_face_folder.from_hugging_face` gives that too.

        Args:
            name_or_folder: A name on the hub, a folder with `config.json` and weights, or a GGUF file.
            dtype: Type of the weights, whatever theirs is.

        Raises:
            InputError: When there is no such model, something in it is missing, or its configuration asks for
                something that this transformer does not have, naming the field.
        """
        from lmmodules.models.hugging_face_folder import from_hugging_face

        return from_hugging_face(name_or_folder, dtype=dtype)[0]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw matrices and embeddings from N(0, `initializer_std`), set biases to zero and norms to the identity."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=self.initializer_std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=self.initializer_std)
                if module.padding_idx is not None:
                    nn.init.zeros_(module.weight[module.padding_idx])
            elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
                module.reset_parameters()
        if self.scale_residual_init:
            std = self.initializer_std / math.sqrt(2 * self.num_layers)
            for name, parameter in self.blocks.named_parameters():
                if name.endswith(("attention.output.weight", "mlp.down.weight")):
                    nn.init.normal_(parameter, std=std)

    def forward(
        self,
        input_ids: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
        document_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: KVCache | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Hidden states of every token, or of the chosen rows.

        Args:
            input_ids: (B, T) tokens.
            inputs_embeds: (B, T, E) token embeddings in their place.
            attention_mask: (B, T), 1 at tokens and 0 at padding, on either side; with a cache it covers the cached
                tokens too. Leave it out where every position is a token: no mask is made then.
            document_ids: (B, T), packed documents: tokens see only those of equal id, and positions begin anew.
            token_type_ids: (B, T) segments; type 0 when left out.
            position_ids: (B, T) positions; counted when left out. ALiBi goes by distance and does not use them.
            cache: Keys and values of earlier tokens; those of these are added to it.
            rows: (M,) positions of the flattened batch whose states are wanted. The last block then makes keys and
                values for all, and its other work for these alone: the same numbers for less.

        Returns:
            (B, T, D), or (M, D) with `rows`.

        Raises:
            InputError: When a sequence is longer than `max_length`, or the arguments contradict each other.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise InputError("`input_ids` or `inputs_embeds` must be given, and not both")
        embeddings = self.token_embedding(input_ids) if inputs_embeds is None else inputs_embeds
        hidden, visibility, rotation = self.prepare(
            embeddings,
            attention_mask=attention_mask,
            document_ids=document_ids,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            cache=cache,
        )
        last = self.num_layers - 1
        for layer, block in enumerate(self.blocks):
            hidden = block(hidden, visibility, rotation, cache, layer, rows if layer == last else None)
        if cache is not None:
            cache.advance(embeddings.shape[1])
        return self.final_norm(hidden)  # type: ignore[no-any-return]

    def prepare(
        self,
        embeddings: Tensor,
        *,
        attention_mask: Tensor | None = None,
        document_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> tuple[Tensor, Visibility, tuple[Tensor, Tensor] | None]:
        """What the first block receives, and what all blocks are told: see `forward` for the arguments.

        Returns:
            Hidden states (B, T, D), who sees whom, and the rotation of queries and keys, if there is one.

        Raises:
            InputError: When a sequence is longer than `max_length`, or the arguments contradict each other.
        """
        length, start = embeddings.shape[1], 0 if cache is None else cache.length
        check_length(start + length, self.max_length)
        self._check_masks(embeddings, attention_mask, document_ids, cache)
        positions = Positions.locate(
            length, start, attention_mask=attention_mask, document_ids=document_ids, position_ids=position_ids
        )
        hidden = self._embed(embeddings, token_type_ids, positions)
        visibility = Visibility.decide(
            length,
            positions.end,
            causal=self.causal,
            device=hidden.device,
            attention_mask=attention_mask,
            document_ids=document_ids,
            bias=self.position.bias(
                length, positions.end, causal=self.causal, device=hidden.device, dtype=_compute_dtype(hidden)
            ),
        )
        return hidden, visibility, self.position.rotation(positions, self.head_dim, hidden)

    def _embed(self, embeddings: Tensor, token_type_ids: Tensor | None, positions: Positions) -> Tensor:
        if self.token_type_embedding is not None:
            types = self.token_type_embedding
            embeddings = embeddings + (types.weight[0] if token_type_ids is None else types(token_type_ids))
        elif token_type_ids is not None:
            raise InputError(
                "`num_token_types` is 0, but the batch has `token_type_ids`; use `model.num_token_types=2`"
            )
        embeddings = self.embedding_norm(self.position.embed(embeddings, positions))
        if self.training:
            embeddings = self.dropout(embeddings)
        return self.embedding_projection(embeddings)  # type: ignore[no-any-return]

    def _check_masks(
        self, embeddings: Tensor, attention_mask: Tensor | None, document_ids: Tensor | None, cache: KVCache | None
    ) -> None:
        batch, length = embeddings.shape[:2]
        keys = length if cache is None else cache.length + length
        if cache is not None and not self.causal:
            raise InputError(
                "`cache` needs a causal model, but this one is bidirectional; use for example `model=gpt2`"
            )
        if cache is not None and document_ids is not None:
            raise InputError("`document_ids` cannot be used with a `cache`; decode each document by itself")
        if attention_mask is not None and attention_mask.shape != (batch, keys):
            raise InputError(
                f"`attention_mask` must have one entry per token seen ({batch}, {keys}), but has shape "
                f"{tuple(attention_mask.shape)}"
            )
        if document_ids is not None and document_ids.shape != (batch, length):
            raise InputError(
                f"`document_ids` must have one entry per token ({batch}, {length}), but has shape "
                f"{tuple(document_ids.shape)}"
            )

    def num_parameters(self) -> int:
        """Number of parameters, trained or not; a tied head adds none."""
        return sum(parameter.numel() for parameter in self.parameters())

    def flops_per_token(self, length: int) -> int:
        """Floating-point operations of one forward, per token of a sequence.

        Two per element of the matrices and, in attention, per element of scores and of their product with the
        values, without a discount for causal masks. A backward pass counts twice as much. The head belongs to
        the objective, which may need it at few rows; see `LanguageModelHead.flops_per_token`.

        Args:
            length: Tokens per sequence T.

        Source:
            Chowdhery et al. 2022, PaLM, appendix B.
        """
        matrices = sum(module.weight.numel() for module in self.modules() if isinstance(module, nn.Linear))
        scores_and_values = 2 * self.num_layers * length * self.num_heads * self.head_dim
        return 2 * (matrices + scores_and_values)

    def extra_repr(self) -> str:
        """The sizes, as one line."""
        return (
            f"causal={self.causal}, vocab_size={self.vocab_size}, hidden_size={self.hidden_size}, "
            f"num_layers={self.num_layers}, num_heads={self.num_heads}, num_kv_heads={self.num_kv_heads}, "
            f"max_length={self.max_length}"
        )


def _compute_dtype(hidden: Tensor) -> torch.dtype:
    """Type in which attention runs: that of autocast, where it is on."""
    device = hidden.device.type
    cast = torch.is_autocast_enabled(device) and hidden.dtype != torch.float64  # which autocast leaves alone
    return torch.get_autocast_dtype(device) if cast else hidden.dtype
