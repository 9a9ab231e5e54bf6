"""Learned prompts as files: the embeddings alone, an adapter of peft, and tokens of the vocabulary."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from lmmodules.errors import InputError
from lmmodules.models.backbone import Backbone
from lmmodules.models.heads import LanguageModelHead

PROMPTS, TEMPLATES = "prompts.safetensors", "prompts.json"
PEFT = "peft"
"""Folder of the adapter: beside the model's own files, transformers would take it for a part of the model."""


def write_prompts(folder: Path, prompts: Mapping[str, Tensor], templates: Mapping[str, str]) -> None:
    """Write `prompts.safetensors`, a matrix (P, E) for each task, and `prompts.json`, the template of each.

    Args:
        folder: An existing folder.
        prompts: By task.
        templates: By task, in the language of `lmmodules.data.prompt_template`.
    """
    from safetensors.torch import save_file

    save_file({task: prompt.contiguous().cpu() for task, prompt in prompts.items()}, folder / PROMPTS)
    text = json.dumps({"templates": dict(templates)}, indent=2, ensure_ascii=False)
    (folder / TEMPLATES).write_text(text + "\n", encoding="utf-8")


def holds_prompts(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a folder that prompts were exported to.

    Args:
        path: Of anything.
    """
    return (Path(path) / PROMPTS).is_file()


def read_prompts(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what `write_prompts` wrote.

    Args:
        folder: With both files.

    Returns:
        Prompts (P, E) and templates, by task.

    Raises:
        InputError: When one cannot be read, or prompts are there for a task without a template.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        prompts = load_file(folder / PROMPTS)
        templates = json.loads((folder / TEMPLATES).read_text(encoding="utf-8"))["templates"]
    except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
        raise InputError(
            f"`{folder}` must hold `{PROMPTS}` and `{TEMPLATES}` as `lmm-export` writes them, but they cannot be read "
            f"({' '.join(str(error).split())})"
        ) from error
    if not set(prompts) <= set(templates):
        raise InputError(f"`{folder / TEMPLATES}` must have a template for each of {', '.join(prompts)}")
    return prompts, templates


def write_peft_adapter(folder: Path, prompt: Tensor, backbone: Backbone) -> None:
    """Write a prompt that stands before everything else as an adapter that peft loads, to the folder `peft`.

    Args:
        folder: An existing folder, that of the model.
        prompt: (P, E).
        backbone: What it belongs to, causal.

    Source:
        `src/peft/tuners/p_tuning` of huggingface/peft: an adapter holds the folded embeddings alone.
    """
    from safetensors.torch import save_file

    config = {
        "peft_type": "P_TUNING",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "num_virtual_tokens": prompt.shape[0],
        "token_dim": prompt.shape[1],
        "num_transformer_submodules": 1,
        "num_attention_heads": getattr(backbone, "num_heads", None),
        "num_layers": getattr(backbone, "num_layers", None),
        "encoder_reparameterization_type": "MLP",
        "encoder_hidden_size": prompt.shape[1],
        "encoder_num_layers": 2,
        "encoder_dropout": 0.0,
    }
    (folder / PEFT).mkdir()
    save_file({"prompt_embeddings": prompt.contiguous().cpu()}, folder / PEFT / "adapter_model.safetensors")
    (folder / PEFT / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def prompts_as_tokens(backbone: Backbone, head: LanguageModelHead, table: Tensor) -> LanguageModelHead:
    """Append pseudo-tokens to the embeddings of a backbone, so that ids from the vocabulary's size on are theirs.

    They cannot be written: the head that is returned has the logits of the vocabulary alone.

    Args:
        backbone: Its token embedding is replaced.
        head: Of the backbone, tied or not.
        table: (P, E).
    """
    embedding = backbone.token_embedding
    weight = embedding.weight.detach()
    untied = LanguageModelHead(
        head.hidden_size,
        weight.shape[0] if head.weight is None else head.weight.shape[0],
        tied=False,
        transform=head.dense is not None,
        activation=head.activation,
        bias=head.bias is not None,
        embedding_size=head.embedding_size,
    ).to(weight.device)
    untied.load_state_dict({**head.state_dict(), "weight": head.output_weight(weight).detach().clone()})
    if untied.norm is not None and head.norm is not None:
        untied.norm.eps = head.norm.eps
    embedding.weight = nn.Parameter(torch.cat([weight, table.to(weight)]), requires_grad=False)
    embedding.num_embeddings = backbone.vocab_size = len(embedding.weight)
    return untied
