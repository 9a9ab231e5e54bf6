"""`lmm-compare`: the runs of a directory in one table and one picture."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from lmmodules.command import run_command
from lmmodules.errors import InputError

if TYPE_CHECKING:
    from lmmodules.comparison import Comparison


def main() -> None:
    """Console script; a first argument without `=` is the directory."""
    if len(sys.argv) > 1 and "=" not in sys.argv[1] and not sys.argv[1].startswith("-"):
        sys.argv[1] = f"directory='{sys.argv[1]}'"
    run_command(compare, "compare")


def compare(config: DictConfig) -> Comparison:
    """Compare the runs of a directory, and leave table and picture there.

    Args:
        config: Composed from `conf/compare.yaml`.

    Returns:
        What was compared.
    """
    directory = Path(config.directory)
    return show_comparison(directory, str(config.metric), Path(config.output) if config.output else directory)


def show_comparison(directory: Path, metric: str, output: Path) -> Comparison:
    """Print the table of the runs in a directory, and write it with a picture.

    Args:
        directory: Of a sweep, of several runs or of one.
        metric: Key of `summary.json`, less is better.
        output: Where `comparison.md`, `comparison.csv` and `comparison.png` go.

    Raises:
        InputError: When there is no run in the directory.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from lmmodules.comparison import compare_runs
    from lmmodules.report import shown_path
    from lmmodules.run_directory import write_text

    comparison = compare_runs(directory, metric)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in comparison.header():
        numbers = column in (metric, "steps", "seconds")
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for run, row in zip(comparison.runs, comparison.rows(), strict=True):
        style = "red" if run.error else None if run.summary else "yellow"
        table.add_row(*map(escape, row), style=style)
    console = Console()
    console.print(table)
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / "comparison.md", comparison.markdown())
    write_text(output / "comparison.csv", comparison.comma_separated())
    console.print(f"[dim]written to[/dim] {escape(shown_path(output / 'comparison.md'))}", soft_wrap=True)
    console.print(f"[dim]picture   [/dim] {escape(draw(comparison, output / 'comparison.png'))}", soft_wrap=True)
    return comparison


def draw(comparison: Comparison, path: Path) -> str:
    """Draw validation loss over steps of the best settings, a band over their seeds.

    Args:
        comparison: What is drawn.
        path: The picture.

    Returns:
        The path, or why there is no picture.
    """
    from lmmodules.plots import plot_claim
    from lmmodules.report import shown_path

    arms = comparison.arms()
    if not arms:
        return "none: no run has a validation loss yet"
    try:
        plot_claim(
            {label: [run.curve for run in runs] for label, runs in arms.items()},
            {label: [run.curve[-1][1] for run in runs] for label, runs in arms.items()},
            path,
            unit="validation loss (nats per target)",
            curve_label="optimizer steps",
        )
    except InputError as error:
        return str(error)
    return shown_path(path)


if __name__ == "__main__":
    main()
