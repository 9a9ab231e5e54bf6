"""litgpt, where it is installed: its network with our sizes, its loss, and our weights under its names.

It cannot share an environment with a recent transformers by its own pins; `pip install --no-deps litgpt` and
`jsonargparse` beside it do.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.training import Batch, Sizes, fused_adamw, random_decoder
from lmmodules import CausalLM
from lmmodules.models import LanguageModelHead
from lmmodules.objectives import LanguageModel

_NAMES = {
    "token_embedding.weight": "transformer.wte.weight",
    "final_norm": "transformer.ln_f",
    "attention_norm": "norm_1",
    "mlp_norm": "norm_2",
    "attention.query_key_value": "attn.qkv",
    "attention.output": "attn.proj",
    "mlp.up": "mlp.fc",
    "mlp.down": "mlp.proj",
}


def ours(vocab_size: int, length: int, sizes: Sizes) -> CausalLM:
    """What litgpt can be: rotary positions, and an output matrix that is not the embedding.

    Args:
        vocab_size: Not padded.
        length: Longest sequence.
        sizes: Of the network, whose random weights are the same each time.
    """
    backbone = random_decoder(vocab_size, sizes, max_length=length)
    head = LanguageModelHead(sizes.hidden_size, vocab_size, tied=False)
    return CausalLM(backbone, head=head, optimizer=fused_adamw)


def build(vocab_size: int, length: int, sizes: Sizes) -> nn.Module:
    """A decoder of the kind of Pythia, with its residual connections in a row and the weights of ours.

    Args:
        vocab_size: Not padded.
        length: Longest sequence.
        sizes: Of the network.
    """
    litgpt = importlib.import_module("litgpt")
    config = litgpt.Config(
        name="benchmark",
        block_size=length,
        vocab_size=vocab_size,
        padded_vocab_size=vocab_size,
        n_layer=sizes.num_layers,
        n_head=sizes.num_heads,
        n_embd=sizes.hidden_size,
        intermediate_size=4 * sizes.hidden_size,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=True,
    )
    model: nn.Module = litgpt.GPT(config)
    model.load_state_dict(names_of_litgpt(ours(vocab_size, length, sizes)))
    return model


def loss(model: nn.Module, batch: Batch, chunk_size: int) -> Tensor:
    """The loss as litgpt's own training computes it.

    Args:
        model: Of `build`.
        batch: Of ours.
        chunk_size: Positions that share one product with the output matrix; 0 for all.
    """
    utils = importlib.import_module("litgpt.utils")
    logits: Any = model(batch["input_ids"], lm_head_chunk_size=chunk_size)
    value: Tensor = utils.chunked_cross_entropy(logits, batch["labels"], chunk_size=chunk_size)
    return value


def write(model: nn.Module, prompt: Tensor, length: int) -> Tensor:
    """The likeliest tokens one by one, with cached keys and values, as litgpt's own script writes.

    Args:
        model: Of `build`, in evaluation mode, with a cache set for one prompt.
        prompt: (T,) tokens.
        length: Of the prompt and what is written behind it.

    Returns:
        (length - T,) new tokens.
    """
    base = importlib.import_module("litgpt.generate.base")
    with torch.inference_mode():
        written: Tensor = base.generate(model, prompt, length, temperature=0.0, top_p=0.0, include_prompt=False)
    return written


def names_of_litgpt(objective: LanguageModel) -> dict[str, Tensor]:
    """The parameters of ours under litgpt's names: queries of all heads, then keys, then values.

    Args:
        objective: With an untied head.
    """
    backbone: Any = objective.backbone
    found = {"lm_head.weight": objective.head.output_weight(backbone.token_embedding.weight).detach()}
    for name, tensor in backbone.state_dict().items():
        for ours, theirs in _NAMES.items():
            name = name.replace(ours, theirs)
        if ".qkv." in name:
            # Ours has query, key and value of a head side by side.
            heads = tensor.view(backbone.num_heads, 3, backbone.head_dim, *tensor.shape[1:])
            tensor = heads.transpose(0, 1).reshape(tensor.shape)
        found[re.sub(r"^blocks\.", "transformer.h.", name)] = torch.clone(tensor)
    return found
