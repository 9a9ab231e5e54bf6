"""`lmm-evaluate`: what a checkpoint is worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict

from lmmodules.command import missing_value, quiet_lightning, run_command
from lmmodules.errors import InputError

if TYPE_CHECKING:
    from lmmodules.data import CorpusDataModule


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

    from lmmodules.checkpoint import load, load_tokenizer
    from lmmodules.run_directory import write_json

    if config.checkpoint is None:
        raise InputError(missing_value("checkpoint"))
    directory = Path(HydraConfig.get().runtime.output_dir)
    quiet_lightning()
    L.seed_everything(config.seed, verbose=False)
    tokenizer = load_tokenizer(config.checkpoint)
    objective = load(config.checkpoint, device=config.device)
    data = evaluation_data(config, tokenizer.to_json(), objective.batch_type)
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


def evaluation_data(config: DictConfig, tokenizer: str, batch_type: type) -> CorpusDataModule:
    """The data module of an evaluation, which reads its text with the checkpoint's own tokenizer.

    Args:
        config: Composed from `conf/evaluate.yaml`.
        tokenizer: The checkpoint's tokenizer as JSON text.
        batch_type: The batch that the checkpoint's objective reads, which decides the transform.
    """
    from lmmodules.data import Tokenizer

    with open_dict(config):
        if config.transform is None:
            raise InputError(missing_value("transform"))
    data: CorpusDataModule = instantiate(config.data, tokenizer=Tokenizer.from_json(tokenizer), _convert_="all")
    if data.batch_type is not batch_type:
        raise InputError(
            f"the checkpoint's objective needs a `{batch_type.__name__}`, but `{type(data.transform).__name__}` yields "
            f"a `{data.batch_type.__name__}`; use `transform=next_token` for causal models and `transform=masking` "
            "for masked ones"
        )
    return data.prepare()


if __name__ == "__main__":
    main()
