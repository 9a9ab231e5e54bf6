"""A causal network with what P-tuning has learned for it, ready to write."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from torch import Tensor, nn
from typing_extensions import Self

from lmmodules.data.prompt_rows import PromptLayout
from lmmodules.data.prompt_template import PromptTemplate
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.errors import InputError
from lmmodules.models.backbone import Backbone
from lmmodules.models.heads import LanguageModelHead
from lmmodules.models.prompt_files import prompts_as_tokens, read_prompts


@dataclass(frozen=True)
class PromptedModel:
    """A network whose prompts fill templates.

    Attributes:
        backbone: Causal; pseudo-tokens become tokens of it.
        head: Of the backbone.
        tokenizer: Of the text.
        prompts: Embeddings (P, E) of the pseudo-tokens, by task; a task may have none.
        templates: In which they stand, by task.
    """

    backbone: Backbone
    head: LanguageModelHead
    tokenizer: Tokenizer
    prompts: Mapping[str, Tensor]
    templates: Mapping[str, PromptTemplate]

    @classmethod
    def read(
        cls, export: str | os.PathLike[str], network: str | os.PathLike[str] | None = None, *, device: str = "cpu"
    ) -> Self:
        """Read an export of P-tuning, which needs nothing of the training.

        Args:
            export: The folder that `lmm-export` wrote.
            network: The folder of the network and its tokenizer, as transformers has them; `None` where `export` is
                it.
            device: Where it runs.

        Raises:
            InputError: When something is missing, does not belong together, or the network is not causal.
        """
        prompts, texts = read_prompts(Path(export))
        folder = Path(export if network is None else network)
        if not (folder / "config.json").is_file():
            raise InputError(
                f"`backbone` must be the folder of the network that the prompts in `{export}` were learned for, but "
                f"`{folder}` has no `config.json`; use `backbone=DIR`"
            )
        backbone, head = _network(folder)
        if not backbone.causal:
            raise InputError(f"`backbone` must be a causal network to write text, but `{folder}` is bidirectional")
        size = backbone.token_embedding.embedding_dim
        for task, prompt in prompts.items():
            if prompt.ndim != 2 or prompt.shape[1] != size:
                raise InputError(
                    f"`backbone` must have embeddings as large as those of the prompts, but `{folder}` has {size} "
                    f"numbers for a token, and {task} in `{export}` has the shape {tuple(prompt.shape)}"
                )
        cast(nn.Module, backbone).to(device).eval()
        templates = {task: PromptTemplate(text) for task, text in texts.items()}
        return cls(backbone, head.to(device).eval(), Tokenizer.from_hub(str(folder)), prompts, templates)

    def filled_in(self, text: str, task: str | None = None) -> tuple[PromptedModel, list[int]]:
        """A text within the template of a task, as tokens, and the model that knows them all.

        Args:
            text: Fills the one field of the template.
            task: Which; `None` for the first.

        Raises:
            InputError: When there is no such task, or its template has not one field.
        """
        task = next(iter(self.templates), "") if task is None else task
        if task not in self.templates:
            raise InputError(f"`task` must be one of {', '.join(self.templates)}, but is {task}")
        template = self.templates[task]
        if len(template.fields) != 1:
            raise InputError(
                f"`prompt` fills in the one field of a template, but that of {task} has the fields "
                f"{', '.join(template.fields)}"
            )
        layout = PromptLayout(self.tokenizer, True, self.backbone.max_length or 1 << 30)
        row = layout.rows(template, {template.fields[0]: [text]}, [[self.tokenizer.eos_id]])[0]
        if task not in self.prompts:
            return self, row.input_ids
        size = self.backbone.token_embedding.num_embeddings
        head = prompts_as_tokens(self.backbone, self.head, self.prompts[task])
        pairs = zip(row.input_ids, row.prompt_ids, strict=True)
        ids = [token if prompt < 0 else size + prompt for token, prompt in pairs]
        return PromptedModel(self.backbone, head, self.tokenizer, {}, self.templates), ids


def _network(folder: Path) -> tuple[Backbone, LanguageModelHead]:
    """The network of a folder: ours where we know its family, else as transformers runs it, with a tied head."""
    from lmmodules.models.hugging_face_backbone import HuggingFaceBackbone
    from lmmodules.models.hugging_face_defaults import DEFAULTS
    from lmmodules.models.hugging_face_fields import read_fields
    from lmmodules.models.hugging_face_folder import from_hugging_face

    if read_fields(str(folder)).get("model_type") in DEFAULTS:
        return from_hugging_face(folder)
    wrapped = cast(Backbone, HuggingFaceBackbone(str(folder)))
    return wrapped, LanguageModelHead(
        wrapped.hidden_size, wrapped.vocab_size, embedding_size=wrapped.token_embedding.embedding_dim
    )
