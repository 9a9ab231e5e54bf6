"""`lmm-export`: a checkpoint as a folder that transformers opens, or as one file that every command here reads."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from lmmodules.command import missing_value, run_command
from lmmodules.errors import InputError

if TYPE_CHECKING:
    from lmmodules.data import Tokenizer
    from lmmodules.data.prompt_template import PromptTemplate
    from lmmodules.objectives import Objective
    from lmmodules.objectives.p_tuning import PTuning

log = logging.getLogger(__name__)

FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
"""What an export consists of."""
PROMPT_FILES = ("prompts.safetensors", "prompts.json", "peft")
"""What an export of P-tuning has besides; with `FILES` all that one may be written over."""
WEIGHTS_SUFFIX = ".safetensors"
"""What the name of an output ends in that is to be one file; `lmmodules.checkpoint` takes long to import."""
ANY_NETWORK = f"one file takes any network: `output=my_model{WEIGHTS_SUFFIX}`"


def main() -> None:
    """Console script."""
    run_command(export, "export")


def export(config: DictConfig) -> None:
    """Write a checkpoint for transformers or for ourselves, and tell what opens it.

    Args:
        config: Composed from `conf/export.yaml`.

    Raises:
        InputError: When `checkpoint` or `output` is missing.
    """
    for key in ("checkpoint", "output"):
        if config[key] is None:
            raise InputError(missing_value(key))
    overwrite = bool(config.overwrite)
    if str(config.output).endswith(WEIGHTS_SUFFIX):
        export_weights(config.checkpoint, config.output, overwrite=overwrite)
        print(
            f"{config.output}: `model.weights={config.output}` starts from it, `checkpoint={config.output}` scores it"
        )
        return
    name = export_checkpoint(config.checkpoint, config.output, overwrite=overwrite)
    print(f"{config.output}: transformers opens it with {name}.from_pretrained and AutoTokenizer.from_pretrained")


def export_weights(
    checkpoint: str | os.PathLike[str], output: str | os.PathLike[str], *, overwrite: bool = False
) -> None:
    """Write the weights of a checkpoint, whatever its network and however many processes saved it, into one file.

    The file holds every weight of the objective under its own name, the configuration that builds it, and the
    tokenizer, and no states of the optimizer. It is written whole or not at all.

    Args:
        checkpoint: A checkpoint, in one file or in parts, or the directory of a run.
        output: The file, whose name ends in `.safetensors`; it must not exist unless `overwrite` is set.
        overwrite: Replace the file that lies there.

    Raises:
        InputError: When the checkpoint cannot be read, or the file is there.
    """
    from lmmodules.checkpoint import read_checkpoint, write_weights

    output = Path(output).absolute()
    if output.is_dir():
        raise InputError(
            f"`output` must be a file where its name ends in `{WEIGHTS_SUFFIX}`, but `{output}` is a folder; "
            f"use `output=my_model{WEIGHTS_SUFFIX}`"
        )
    if output.exists() and not overwrite:
        raise InputError(f"`output` must be a new file, but `{output}` is there; use `overwrite=true`")
    whole = read_checkpoint(checkpoint)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.partial-{os.getpid()}")
    try:
        partial.touch()
        mode = partial.stat().st_mode
        write_weights(whole, partial)
        partial.chmod(mode)  # the library keeps what it writes from everybody else
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


def export_checkpoint(
    checkpoint: str | os.PathLike[str], output: str | os.PathLike[str], *, overwrite: bool = False
) -> str:
    """Write the network and the tokenizer of a checkpoint as a folder that transformers opens.

    Logits are the same to what float32 leaves of them, and so are the ids of a text; special tokens that stand in the
    text are read as such there, and never here. Around the texts of a bidirectional network the tokenizer puts the
    special tokens, and the types of segments, that the network was trained with. The folder is written whole or not at
    all.

    Args:
        checkpoint: A checkpoint, or the directory of a run.
        output: The folder; it must not exist unless `overwrite` is set.
        overwrite: Replace an export that lies there.

    Returns:
        The name of the class that opens it.

    Raises:
        InputError: When the checkpoint cannot be read, the folder is taken, or no family of transformers expresses
            the network, naming what stands against it.
    """
    from lmmodules.checkpoint import load, load_tokenizer, read_snapshot
    from lmmodules.data.tokenizer_files import write_tokenizer
    from lmmodules.exported_parts import tells_segments_apart, trained_layout

    output = Path(output)
    _check_free(output, overwrite)
    snapshot = read_snapshot(checkpoint)
    objective = load(checkpoint)
    tokenizer = None if snapshot.get("tokenizer") is None else load_tokenizer(checkpoint)
    data = snapshot.get("config", {}).get("data", {})
    length = data.get("max_length")
    with written_whole(output) as folder:
        name = _write_network(folder, objective, tokenizer, length)
        _write_prompts(folder, objective, snapshot)
        if tokenizer is None:
            log.warning(f"`{checkpoint}` carries no tokenizer, so there is none in `{output}`")
        else:
            write_tokenizer(
                folder,
                tokenizer,
                objective.backbone.max_length or length,
                layout=trained_layout(objective.backbone, tokenizer, data),
                token_types=tells_segments_apart(objective.backbone),
            )
    return name


def _write_network(folder: Path, objective: Objective, tokenizer: Tokenizer | None, length: int | None) -> str:
    from lmmodules.data.tokenizer import ROLES
    from lmmodules.exported_parts import sequence_task
    from lmmodules.models.heads import LanguageModelHead
    from lmmodules.models.hugging_face_backbone import HuggingFaceBackbone
    from lmmodules.models.hugging_face_export import save_for_transformers
    from lmmodules.models.transformer import Transformer

    backbone, head = objective.backbone, getattr(objective, "head", None)
    if isinstance(backbone, HuggingFaceBackbone):
        log.warning(f"the head of `{type(objective).__name__}` is left out: a wrapped model is exported as it is")
        return backbone.save(folder)
    if not isinstance(backbone, Transformer):
        raise InputError(
            f"`checkpoint` must hold a `Transformer` to be exported as a folder, but holds a "
            f"{type(backbone).__name__}; {ANY_NETWORK}"
        )
    task = sequence_task(objective)
    if not isinstance(head, LanguageModelHead):
        if task is None:
            log.warning(f"`{type(objective).__name__}` has no language-model head: the body alone is exported")
        head = None
    ids = {} if tokenizer is None else {role: tokenizer.id_of(role) for role in ROLES if tokenizer.has(role)}
    try:
        return save_for_transformers(folder, backbone, head, task=task, token_ids=ids, max_length=length)
    except InputError as error:
        raise InputError(f"{error}; {ANY_NETWORK}") from error


def _write_prompts(folder: Path, objective: Objective, snapshot: dict[str, Any]) -> None:
    """What a checkpoint of P-tuning has learned beside the network, without the encoders it was learned by."""
    from lmmodules.models.prompt_files import write_peft_adapter, write_prompts
    from lmmodules.objectives.p_tuning import PTuning

    if not isinstance(objective, PTuning):
        return
    prompts = objective.folded()
    if not prompts:
        log.warning("the checkpoint has no pseudo-tokens, so there is no prompt to export")
        return
    templates = prompt_templates(objective, snapshot)
    write_prompts(folder, prompts, {task: template.text for task, template in templates.items()})
    if len(prompts) == 1 and objective.backbone.causal and templates and next(iter(templates.values())).is_prefix:
        write_peft_adapter(folder, next(iter(prompts.values())), objective.backbone)


def prompt_templates(objective: PTuning, snapshot: dict[str, Any]) -> dict[str, PromptTemplate]:
    """The templates that a checkpoint of P-tuning was trained with, by task; none where they are not known.

    Args:
        objective: The checkpoint's.
        snapshot: What the checkpoint says of itself.

    Raises:
        InputError: When it asks for data that is not of this package.
    """
    from hydra.utils import instantiate

    from lmmodules.data.knowledge_probes import KnowledgeProbes
    from lmmodules.data.super_glue import SuperGlue
    from lmmodules.evaluate import refuse_foreign

    node = snapshot.get("config", {}).get("data")
    if node is None:
        return {}
    node = {**node, "tokenizer": None}
    refuse_foreign(node)
    data = instantiate(node, _convert_="all")
    if isinstance(data, KnowledgeProbes):
        return {task: data.template_of(task) for task in objective.tasks}
    return {data.task: data.prompt_template} if isinstance(data, SuperGlue) else {}


def _check_free(output: Path, overwrite: bool) -> None:
    if not output.exists():
        return
    if not output.is_dir():
        raise InputError(f"`output` must be a folder, but `{output}` is a file")
    foreign = sorted(path.name for path in output.iterdir() if path.name not in FILES + PROMPT_FILES)
    if foreign:
        raise InputError(f"`output` must not hold anything but an export, but `{output}` has `{foreign[0]}`")
    if any(output.iterdir()) and not overwrite:
        raise InputError(f"`output` must be a new folder, but `{output}` holds an export; use `overwrite=true`")


@contextmanager
def written_whole(output: Path) -> Iterator[Path]:
    """A folder to write into, which takes the name of another when all is written, and is gone when something fails.

    Args:
        output: The name to take; what is there is replaced.
    """
    output = output.absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.partial-{os.getpid()}")
    former = output.with_name(f".{output.name}.former-{os.getpid()}")
    partial.mkdir()
    try:
        yield partial
        if output.exists():
            output.rename(former)
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if former.exists() and not output.exists():
            former.rename(output)
        shutil.rmtree(former, ignore_errors=True)


if __name__ == "__main__":
    main()
