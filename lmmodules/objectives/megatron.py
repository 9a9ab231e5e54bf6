"""Megatron-LM: a next-token model whose matrices many devices share."""

from __future__ import annotations

from lmmodules.objectives.causal_lm import CausalLM


class Megatron(CausalLM):
    """Predict each token from those before it, as GPT-2 does.

    The paper is about how such a model is spread, not about what it learns: the objective is `CausalLM`, and what is
    the paper's own is applied to any objective by `strategy=tensor_parallel`.

    Source:
        Shoeybi et al. 2019, "Megatron-LM: Training Multi-Billion Parameter Language Models Using Model Parallelism",
        sections 3 and 4.2.
    """
