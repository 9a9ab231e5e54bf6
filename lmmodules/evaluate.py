"""`lmm-evaluate`: what a checkpoint is worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict

from lmmodules.command import missing_value, quiet_lightning, run_command
from lmmodules.errors import InputError

if TYPE_CHECKING:
    from lmmodules.data import CorpusDataModule, Tokenizer


def main() -> None:
    """Console script."""
    run_command(evaluate, "evaluate")


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Run an evaluation on a checkpoint, print its figures, and write them to `evaluation.json`.

    Args:
        config: Composed from `conf/evaluate.yaml`.

    Returns:
        The figures.
    """
    import lightning as L
    from hydra.core.hydra_config import HydraConfig
    from rich.console import Console
    from rich.table import Table

    from lmmodules.callbacks.config_snapshot import SNAPSHOT_KEY
    from lmmodules.checkpoint import load, load_tokenizer, read_checkpoint
    from lmmodules.run_directory import write_json

    if config.checkpoint is None:
        raise InputError(missing_value("checkpoint"))
    directory = Path(HydraConfig.get().runtime.output_dir)
    quiet_lightning()
    L.seed_everything(config.seed, verbose=False)
    objective = load(config.checkpoint, device=config.device)
    trained = read_checkpoint(config.checkpoint)[SNAPSHOT_KEY]["config"]
    data = evaluation_data(config, load_tokenizer(config.checkpoint), trained, objective.batch_type)
    figures: dict[str, Any] = instantiate(config.evaluation, _convert_="all")(objective, data)

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0), title=str(config.checkpoint), title_justify="left")
    table.add_column(style="dim")
    table.add_column(justify="right")
    for name, value in figures.items():
        table.add_row(
            name,
            f"{value:,.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value),
        )
    Console().print(table)
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "evaluation.json", {"checkpoint": str(config.checkpoint), **figures})
    return figures


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
    from lmmodules.batch import provides

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


if __name__ == "__main__":
    main()
