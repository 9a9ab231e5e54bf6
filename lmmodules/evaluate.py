"""`lmm-evaluate`: what a checkpoint is worth."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from lmmodules.command import missing_value, quiet_lightning, run_command
from lmmodules.errors import InputError, check_seed

if TYPE_CHECKING:
    from lmmodules.data import CorpusDataModule, DataModule, Tokenizer
    from lmmodules.objectives import Objective


def main() -> None:
    """Console script."""
    run_command(evaluate, "evaluate")


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Run an evaluation on a checkpoint, print its figures, and write them to `evaluation.json`.

    Args:
        config: Composed from `conf/evaluate.yaml`.

    Returns:
        The figures.

    Raises:
        InputError: When there is no `checkpoint`.
    """
    import lightning as L
    from hydra.core.hydra_config import HydraConfig

    from lmmodules.models.floating_point import flush_denormals
    from lmmodules.run_directory import write_json

    if config.checkpoint is None:
        raise InputError(missing_value("checkpoint"))
    check_seed(config.seed)
    flush_denormals()
    directory = Path(HydraConfig.get().runtime.output_dir)
    quiet_lightning()
    L.seed_everything(config.seed, verbose=False)
    evaluation, figures = score(config, config.checkpoint, overrides=HydraConfig.get().overrides.task)

    print_figures(figures, str(config.checkpoint))
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "evaluation.json", {"checkpoint": str(config.checkpoint), **figures})
    if hasattr(evaluation, "curves"):
        draw(evaluation.curves(figures), directory / "evaluation.png")
    return figures


def score(
    config: DictConfig,
    checkpoint: str | os.PathLike[str],
    *,
    overrides: Sequence[str] = (),
    prepare: Callable[[Objective], None] = lambda objective: None,
) -> tuple[Any, dict[str, Any]]:
    """Run an evaluation on a checkpoint.

    Args:
        config: Composed from `conf/evaluate.yaml`.
        checkpoint: A checkpoint, or the directory of a run.
        overrides: What somebody gave, none of which may choose text where the evaluation brings its own.
        prepare: Changes the objective in place before it is scored.

    Returns:
        The evaluation, and its figures.
    """
    from lmmodules.checkpoint import load, load_tokenizer, read_snapshot

    objective = load(checkpoint, device=config.device)
    prepare(objective)
    evaluation = instantiate(config.evaluation, _convert_="all")
    material: Any = load_tokenizer(checkpoint)
    if getattr(evaluation, "reads_text", True):
        make_data = evaluation_data if "_target_" in config.data else checkpoint_data
        material = make_data(config, material, read_snapshot(checkpoint)["config"], objective.batch_type)
    else:
        _check_no_text_is_given(overrides)
    return evaluation, evaluation(objective, material)


def _check_no_text_is_given(overrides: Sequence[str]) -> None:
    for override in overrides:
        name = override.lstrip("+~").partition("=")[0]
        if name.partition(".")[0] in ("data", "packing", "tokenizer", "transform"):
            raise InputError(
                f"`{name}` must be left out where an evaluation brings its own text, but `{override}` gives it"
            )


def print_figures(figures: dict[str, Any], title: str) -> None:
    """Print figures as a table; what is a list of rows becomes a table of its own.

    Args:
        figures: As an evaluation returns them.
        title: What was evaluated.
    """
    from rich.console import Console
    from rich.table import Table

    def told(value: object) -> str:
        return f"{value:,.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)

    console = Console()
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0), title=title, title_justify="left")
    table.add_column(style="dim")
    table.add_column(justify="right")
    for name, value in figures.items():
        if not isinstance(value, list):
            table.add_row(name, told(value))
    console.print(table)
    for rows in figures.values():
        if isinstance(rows, list) and rows:
            several = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
            for column in rows[0]:
                several.add_column(column.replace("_", " "), justify="right")
            for row in rows:
                several.add_row(*map(told, row.values()))
            console.print(several)


def draw(curves: dict[str, Any], path: Path) -> None:
    """Draw curves over length, or say why there is no picture.

    Args:
        curves: Points by name.
        path: The picture.
    """
    from lmmodules.plots import plot_lengths
    from lmmodules.report import shown_path

    try:
        print(f"picture: {shown_path(plot_lengths(curves, path))}")
    except InputError as error:  # without matplotlib
        print(error)


def evaluation_data(
    config: DictConfig, tokenizer: Tokenizer, trained: dict[str, Any], batch_type: type
) -> CorpusDataModule:
    """The data module of an evaluation: as in training, but for what the command says, and with other text.

    Args:
        config: Composed from `conf/evaluate.yaml`.
        tokenizer: The checkpoint's.
        trained: The configuration that the checkpoint was trained with.
        batch_type: The batch that the checkpoint's objective reads.

    Raises:
        InputError: When the transform does not make such batches.
    """
    from lmmodules.batch import ChoiceBatch, LabelledBatch, ScoredBatch, provides
    from lmmodules.prompt_batch import PromptBatch

    if batch_type in (ChoiceBatch, LabelledBatch, ScoredBatch):
        raise InputError(
            "the checkpoint's objective answers rows and has no likelihood of text; use `evaluation=classification`"
        )
    if provides(batch_type, PromptBatch):
        raise InputError(
            "the checkpoint's objective answers prompts; use `evaluation=knowledge` for facts and "
            "`evaluation=super_glue` for SuperGLUE"
        )
    with open_dict(config):
        for part in ("transform", "packing"):
            if config[part] is None and part in trained:
                config[part] = trained[part]
        if config.data.max_length is None:
            config.data.max_length = trained.get("data", {}).get("max_length", 256)
        if config.data.validation_fraction is None:
            config.data.validation_fraction = 0.05 if config.data.get("path") is None else 1
    data: CorpusDataModule = instantiate(config.data, tokenizer=tokenizer, _convert_="all")
    if not provides(data.batch_type, batch_type):
        raise InputError(
            f"the checkpoint's objective needs a `{batch_type.__name__}`, but `{type(data.transform).__name__}` yields "
            f"a `{data.batch_type.__name__}`; use `transform=next_token` for causal models and `transform=masking` "
            "for masked ones"
        )
    return data.prepare()


def checkpoint_data(config: DictConfig, tokenizer: Tokenizer, trained: dict[str, Any], batch_type: type) -> DataModule:
    """The labelled rows a checkpoint was trained on, or others of their kind.

    Args:
        config: Composed from `conf/evaluate.yaml`, with `data=checkpoint`.
        tokenizer: The checkpoint's.
        trained: The configuration that the checkpoint was trained with.
        batch_type: The batch that the checkpoint's objective reads.

    Raises:
        InputError: When the checkpoint was not trained on rows.
    """
    from lmmodules.batch import ChoiceBatch, LabelledBatch, ScoredBatch, provides
    from lmmodules.prompt_batch import PromptBatch

    if batch_type not in (ChoiceBatch, LabelledBatch, ScoredBatch) and not provides(batch_type, PromptBatch):
        raise InputError(
            f"`evaluation=classification` needs a checkpoint of `objective=classification`, `regression` or "
            f"`multiple_choice`, but this one's objective reads a `{batch_type.__name__}`; use `evaluation=perplexity`"
        )
    plain = cast("dict[str, Any]", OmegaConf.to_container(config.data, resolve=True))
    given = {name: value for name, value in plain.items() if value is not None}
    node: dict[str, Any] = {**trained["data"], **given, "tokenizer": None}
    refuse_foreign(node)
    if "path" in given:  # all of it is scored
        others = {"source": None, "validation_path": None, "validation_fraction": 1}
        node |= {name: value for name, value in others.items() if name in node}
    if "classes" in node:
        node["classes"] = trained["objective"].get("classes")  # by number, in whatever order the new rows name them
    data: DataModule = instantiate(node, tokenizer=tokenizer, _convert_="all")
    return data.prepare()


def refuse_foreign(node: Any) -> None:
    """Refuse a configuration out of a checkpoint, which may come from anywhere, that names what is not ours.

    Args:
        node: Plain values.

    Raises:
        InputError: When it does.
    """
    if isinstance(node, dict):
        target = str(node.get("_target_", "lmmodules.data"))
        if not target.startswith("lmmodules.data"):
            raise InputError(f"the checkpoint asks for `{target}` to read its data, which is not of `lmmodules.data`")
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        refuse_foreign(value)


if __name__ == "__main__":
    main()
