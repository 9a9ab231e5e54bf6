"""The end of a run: a summary for scripts, a table, a sample and a picture for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from lmmodules.callbacks import RankZeroLogging, Throughput, read_metrics
from lmmodules.callbacks.progress import format_count, format_duration
from lmmodules.errors import InputError
from lmmodules.run_directory import write_json

if TYPE_CHECKING:
    from lmmodules.train import Run

SAMPLE_PROMPT_TOKENS = 24
SAMPLE_NEW_TOKENS = 80


def write_summary(run: Run) -> dict[str, Any]:
    """Collect what a run came to and write `summary.json`, on rank zero.

    Args:
        run: A run whose training has ended.

    Returns:
        The summary, on every rank.
    """
    trainer = run.trainer
    logging = next(callback for callback in trainer.callbacks if isinstance(callback, RankZeroLogging))  # type: ignore[attr-defined]
    throughput = next((c for c in trainer.callbacks if isinstance(c, Throughput)), None)  # type: ignore[attr-defined]
    latest = logging.latest
    baseline = run.data.baseline()
    summary: dict[str, Any] = {
        "steps": trainer.global_step,
        "tokens": throughput.tokens if throughput else None,
        "seconds": round(throughput.seconds, 3) if throughput else None,
        "tokens_per_second": round(throughput.tokens / throughput.seconds, 1)
        if throughput and throughput.seconds
        else None,
        "parameters": sum(parameter.numel() for parameter in run.objective.parameters()),
        "train_loss": latest.get("train/loss"),
        "val_loss": latest.get("val/loss"),
        "val_perplexity": latest.get("val/perplexity"),
        **({baseline.key: baseline.loss} if baseline else {}),
        "vocab_size": run.data.vocab_size,
        "peak_memory_gb": latest.get("throughput/memory_gb"),
        "seed": run.config.seed,
        "checkpoint": "checkpoints/last.ckpt",
    }
    summary |= {name.replace("/", "_"): value for name, value in latest.items() if name.startswith("val/")}
    if trainer.is_global_zero:
        run.directory.mkdir(parents=True, exist_ok=True)
        write_json(run.directory / "summary.json", summary)
    return summary


def print_report(run: Run, summary: dict[str, Any], console: Console | None = None) -> None:
    """Print the table and a sample, and draw the picture of loss and learning rate.

    Args:
        run: The run, trained.
        summary: From `write_summary`.
        console: Where to print; `None` for standard output.
    """
    console = console or Console()
    baseline = run.data.baseline()
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column()
    if summary["val_loss"] is not None:
        unit = getattr(run.objective, "loss_unit", "nats per token")
        table.add_row("validation loss", f"{summary['val_loss']:.3f} {unit}")
        term = run.objective.perplexity_term
        if term is not None and f"val_{term}" in summary and term != "loss":  # the part that a baseline is of
            table.add_row(f"  {term.replace('_', ' ')}", f"{summary[f'val_{term}']:.3f} nats per token")
        if baseline is not None:
            table.add_row(f"  {baseline.label}", f"{baseline.loss:.3f} ({baseline.meaning})")
    if summary["val_perplexity"] is not None:
        table.add_row("validation perplexity", f"{summary['val_perplexity']:,.2f}")
    for name in getattr(run.objective, "headline", ()):
        if f"val_{name}" in summary:
            table.add_row(f"validation {name.replace('_', ' ')}", f"{summary[f'val_{name}']:.4f}")
    table.add_row("tokens seen", f"{format_count(summary['tokens'])} in {summary['steps']:,} steps")
    if summary["tokens_per_second"]:
        table.add_row("tokens per second", f"{summary['tokens_per_second']:,.0f}")
    table.add_row("training time", format_duration(summary["seconds"]))
    table.add_row("parameters", f"{summary['parameters']:,}")
    table.add_row("run directory", shown_path(run.directory))
    table.add_row("checkpoint", summary["checkpoint"])
    picture = _draw(run)
    table.add_row("picture", picture)
    console.print()
    console.print(table)
    sample = sample_text(run)
    if sample is not None:
        prompt, continuation = sample
        console.print()
        console.print(
            Panel(
                f"[dim]{_escape(prompt)}[/dim]{_escape(continuation)}",
                title="the start of a held-out document, and how the model goes on",
                title_align="left",
                border_style="dim",
            ),
            highlight=False,
        )


def sample_text(run: Run) -> tuple[str, str] | None:
    """The start of a validation document and the model's own continuation; `None` for models that do not write.

    The model is read from its checkpoint: that one is whole, whatever the strategy has split.
    """
    checkpoint = run.directory / "checkpoints" / "last.ckpt"
    if not run.objective.needs_causal or not run.data.holds_out or not checkpoint.is_file():
        return None
    from lmmodules.checkpoint import load
    from lmmodules.evaluation.generation import generate
    from lmmodules.objectives import LanguageModel

    tokenizer = run.data.tokenizer
    document = run.data.validation_document(SAMPLE_PROMPT_TOKENS)
    objective = load(checkpoint)
    if not isinstance(objective, LanguageModel):
        return None
    limit = objective.backbone.max_length or len(document) + SAMPLE_NEW_TOKENS
    if len(document) == 0 or len(document) >= limit:
        return None
    written = generate(
        objective,
        [document],
        max_new_tokens=min(SAMPLE_NEW_TOKENS, limit - len(document)),
        temperature=0.8,
        top_p=0.95,
        stop_ids=[tokenizer.eos_id],
        seed=int(run.config.seed),
    )[0]
    return tokenizer.decode(document), tokenizer.decode(written)


def shown_path(path: Path) -> str:
    """A path as one would type it: relative to the working directory where it lies below."""
    path, here = path.absolute(), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _draw(run: Run) -> str:
    from lmmodules.plots import plot_run

    known = run.data.baseline()
    baseline = None if known is None else (known.label, known.loss)
    try:
        rows = read_metrics(run.directory / "metrics.csv")
        picture = plot_run(rows, run.directory / "loss.png", baseline=baseline)
    except InputError as error:
        return str(error)
    return picture.name


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
