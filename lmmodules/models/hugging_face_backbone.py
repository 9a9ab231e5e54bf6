"""Any encoder or decoder of transformers as a backbone."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lmmodules.errors import InputError, require
from lmmodules.models.checks import check_length
from lmmodules.models.hugging_face_fields import (
    can_be_either,
    is_causal,
    longest,
    plain_fields,
    read_fields,
    rows_of_padding,
)

if TYPE_CHECKING:
    from lmmodules.models.cache import KVCache


class HuggingFaceBackbone(nn.Module):
    """An `AutoModel` of transformers behind the protocol of a backbone.

    Heads, objectives, data and optimizers take it as they take `Transformer`. Its own poolers and heads are left out.

    Args:
        name: A name on the hub, or a folder. With a `config` it is not read.
        weights: Whether to load the published weights; otherwise they are drawn as its authors drew them.
        causal: Whether a token sees only itself and what came before; `None` asks the configuration. A model that can
            be either becomes what is said here.
        vocab_size: Number of token embeddings in place of the published one, for a model without its weights.
        config: The fields of its configuration, as a checkpoint keeps them.

    Raises:
        InputError: When there is no such model, it is no encoder or decoder of tokens, it cannot be what `causal`
            says, or something it lacks is asked of it.

    Differences:
        What `Transformer` does for chosen `rows` alone is done here for all. Packed documents are refused.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        weights: bool = True,
        causal: bool | None = None,
        vocab_size: int | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        fields = read_fields(name) if config is None else dict(config)
        self.causal = is_causal(fields, causal)
        if can_be_either(fields):
            fields["is_decoder"] = self.causal
        if vocab_size is not None and vocab_size != fields.get("vocab_size"):
            if config is None and weights:
                raise InputError(
                    f"`vocab_size` must be that of the weights of `{name}` ({fields.get('vocab_size')}), but is "
                    f"{vocab_size}; use `model.vocab_size=null`, or `model.weights=false`"
                )
            fields["vocab_size"] = vocab_size
        transformers = require("transformers", "hub", f"`{name}`")
        settings = transformers.CONFIG_MAPPING[fields["model_type"]].from_dict(fields)
        settings.use_cache = False
        if config is None and weights:
            model = _loaded(str(name), settings)
        else:
            model = transformers.AutoModel.from_config(settings)
        if "add_pooling_layer" in inspect.signature(type(model).__init__).parameters:
            model.pooler = None  # nothing would train it
        if model.dtype != torch.get_default_dtype():
            model.to(torch.get_default_dtype())
        self.model: nn.Module = model.train()
        self._accepts = frozenset(inspect.signature(model.forward).parameters)
        self._blocks_name = _find_layers(model, settings.num_hidden_layers)

        self.vocab_size: int = settings.vocab_size
        self.hidden_size: int = settings.hidden_size
        self.num_layers: int = settings.num_hidden_layers
        heads: int = settings.num_attention_heads
        self.num_heads = heads
        self.num_kv_heads: int = getattr(settings, "num_key_value_heads", None) or heads
        self.head_dim: int = getattr(settings, "head_dim", None) or self.hidden_size // heads
        self.max_length = longest(fields)
        self._counts_from_zero = not rows_of_padding(fields)
        self._check_direction()

    def _check_direction(self) -> None:
        """Look whether the first of three tokens hears of the last; on the meta device there is nothing to see."""
        if type(self.token_embedding.weight.data) is not Tensor or self.token_embedding.weight.is_meta:
            return
        last = self.vocab_size - 1
        tokens = torch.tensor([[last, last, last], [last, last, last // 2]])
        was_training = self.model.training
        with torch.no_grad():
            states = self.model.eval()(input_ids=tokens).last_hidden_state[:, 0]
        self.model.train(was_training)
        heard = (states[0] - states[1]).abs().max() > 1e-5 * states.abs().max()
        if bool(heard) == self.causal:
            kind = "bidirectional" if self.causal else "causal"
            raise InputError(
                f"`model.causal` must be {not self.causal}, because a `{type(self.model).__name__}` is {kind}, but is "
                f"{self.causal}"
            )

    @property
    def fields(self) -> dict[str, Any]:
        """The configuration as plain values: all that is needed to make the network again."""
        return plain_fields(self.model.config)

    @property
    def num_token_types(self) -> int:
        """Segments that the model tells apart; 0 where it takes none."""
        return int(getattr(self.model.config, "type_vocab_size", 0)) if "token_type_ids" in self._accepts else 0

    @property
    def token_embedding(self) -> nn.Embedding:
        """Embeddings (V, E) of the tokens."""
        embedding: nn.Embedding = self.model.get_input_embeddings()  # type: ignore[operator]
        return embedding

    @property
    def blocks(self) -> nn.ModuleList:
        """The layers."""
        layers = self.model.get_submodule(self._blocks_name)
        assert isinstance(layers, nn.ModuleList)
        return layers

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
            attention_mask: (B, T), 1 at tokens and 0 at padding.
            document_ids: Refused.
            token_type_ids: (B, T) segments, where the model has any.
            position_ids: (B, T) positions as the model counts them, where it takes any.
            cache: Keys and values of earlier tokens; those of these are added to it.
            rows: (M,) positions of the flattened batch whose states are wanted.

        Returns:
            (B, T, D), or (M, D) with `rows`.

        Raises:
            InputError: When a sequence is longer than the model has positions for, or something is given that it does
                not take.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise InputError("`input_ids` or `inputs_embeds` must be given, and not both")
        if document_ids is not None:
            raise InputError(
                "`document_ids` cannot be told to a model that `model=hugging_face` wraps, whose documents would see "
                "each other; use `data.document_mask=false`"
            )
        if self.causal and attention_mask is not None and position_ids is None and self._places_tokens():
            new = (input_ids if inputs_embeds is None else inputs_embeds).shape[1]  # type: ignore[union-attr]
            position_ids = (attention_mask.long().cumsum(1) - 1).clamp(min=0)[:, -new:]  # padding is not counted
        given = {
            "input_ids": input_ids,
            "inputs_embeds": inputs_embeds,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
        }
        inputs = {name: tensor for name, tensor in given.items() if tensor is not None}
        for name in inputs:
            if name not in self._accepts:
                raise InputError(f"`{name}` must be left out: a `{type(self.model).__name__}` does not take it")
        length = next(iter(inputs.values())).shape[1]
        check_length(length + (0 if cache is None else cache.length), self.max_length)
        hidden = self._run(inputs, length, cache)
        return hidden if rows is None else hidden.flatten(0, 1).index_select(0, rows)

    def _places_tokens(self) -> bool:
        return self._counts_from_zero and "position_ids" in self._accepts

    def _run(self, inputs: Mapping[str, Tensor], length: int, cache: KVCache | None) -> Tensor:
        """Run the model, after cached tokens in a cache of its own kind that is filled from ours and read back."""
        hidden: Tensor
        if cache is None:
            hidden = self.model(**inputs).last_hidden_state
            return hidden
        if not self.causal:
            raise InputError(
                "`cache` needs a causal model, but this one is bidirectional; use for example `model=gpt2`"
            )
        transformers = require("transformers", "hub", "a cache")
        past = transformers.DynamicCache()
        if cache.length:
            for layer in range(self.num_layers):
                past.update(cache.keys[layer, :, :, : cache.length], cache.values[layer, :, :, : cache.length], layer)
        hidden = self.model(**inputs, past_key_values=past, use_cache=True).last_hidden_state
        for layer, (keys, values, *_) in enumerate(past):
            cache.append(layer, keys[:, :, -length:], values[:, :, -length:])
        cache.advance(length)
        return hidden

    def save(self, folder: Path) -> str:
        """Write configuration and weights as transformers does.

        Args:
            folder: An existing folder.

        Returns:
            The name of the class that opens it.
        """
        self.model.save_pretrained(folder)  # type: ignore[operator]
        return type(self.model).__name__

    def num_parameters(self) -> int:
        """Number of parameters, trained or not."""
        return sum(parameter.numel() for parameter in self.parameters())

    def flops_per_token(self, length: int) -> int:
        """Floating-point operations of one forward, per token; see `Transformer.flops_per_token`.

        Args:
            length: Tokens per sequence T.
        """
        # Layers that are used several times, as ALBERT's, count as often.
        uses = self.num_layers // len(self.blocks) if len(self.blocks) < self.num_layers else 1
        matrices = uses * sum(parameter.numel() for parameter in self.blocks.parameters() if parameter.ndim == 2)
        return 2 * (matrices + 2 * self.num_layers * length * self.num_heads * self.head_dim)


def _loaded(name: str, settings: Any) -> Any:
    transformers = require("transformers", "hub", f"`{name}`")
    try:
        return transformers.AutoModel.from_pretrained(name, config=settings)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"`model.name={name}` has no weights that transformers can load ({reason})") from error


def _find_layers(model: nn.Module, num_layers: int) -> str:
    """The name of the list of layers: the first that is as long as the model is deep, or the longest."""
    lists: list[tuple[str, int]] = [
        (name, len(module)) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)
    ]
    if not lists:
        raise InputError(f"`model.name` must be a stack of layers, but a `{type(model).__name__}` has none")
    of_that_depth = [name for name, length in lists if length == num_layers]
    return of_that_depth[0] if of_that_depth else max(lists, key=lambda item: item[1])[0]
