"""A GPT as one writes it in an evening: one file, the fast kernels of PyTorch, no option.

It stands for the training scripts that people copy and change, which are no package. The names of its modules are
those of GPT-2, so that weights go over by name.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SmallBlock(nn.Module):
    """Attention and a feed-forward network, each behind a norm."""

    def __init__(self, size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.ln_1, self.ln_2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.attn = nn.ModuleDict({"c_attn": nn.Linear(size, 3 * size), "c_proj": nn.Linear(size, size)})
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(size, 4 * size), "c_proj": nn.Linear(4 * size, size)})

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        batch, length, size = hidden.shape
        heads = self.attn["c_attn"](self.ln_1(hidden)).view(batch, length, 3, self.num_heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # (B, H, T, K) each
        gathered = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.attn["c_proj"](gathered.transpose(1, 2).reshape(batch, length, size))
        return hidden + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(hidden))))  # type: ignore[no-any-return]


class SmallGPT(nn.Module):
    """Embeddings, blocks, and the loss of the next token with the embedding as the output matrix."""

    def __init__(self, vocab_size: int, max_length: int, size: int, num_layers: int, num_heads: int) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab_size, size), nn.Embedding(max_length, size)
        self.h = nn.ModuleList(SmallBlock(size, num_heads) for _ in range(num_layers))
        self.ln_f = nn.LayerNorm(size)

    def forward(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        """The mean cross-entropy of (B, T) labels."""
        hidden = self.wte(input_ids) + self.wpe(torch.arange(input_ids.shape[1]))
        for block in self.h:
            hidden = block(hidden)
        logits = F.linear(self.ln_f(hidden), self.wte.weight)
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def names_of_small_gpt(gpt2: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of GPT-2 as transformers has them, under our names: its matrices lie on their side.

    Args:
        gpt2: State of a `GPT2LMHeadModel`.
    """
    body = {name.removeprefix("transformer."): tensor for name, tensor in gpt2.items() if name != "lm_head.weight"}
    return {
        name: tensor.T.contiguous() if ".c_" in name and tensor.ndim == 2 else tensor for name, tensor in body.items()
    }
