"""`lmm-preview`: what a configuration would train, found out without training, data or memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict

from lmmodules.command import run_command
from lmmodules.errors import InputError
from lmmodules.fitting_parts import check, chosen, match_tokenizer
from lmmodules.plan import Plan, plan_run

if TYPE_CHECKING:
    from torch import nn

CURVE_POINTS = 1000


def main() -> None:
    """Console script."""
    run_command(preview, "preview")


def preview(config: DictConfig) -> None:
    """Print parameters, decay groups, tokens, memory and FLOPs of a run, and draw its learning rate.

    Args:
        config: Composed as for `lmm-train`.
    """
    from rich.console import Console

    with open_dict(config):
        config.paths.output_dir = HydraConfig.get().runtime.output_dir
    check(config)
    match_tokenizer(config, list(HydraConfig.get().overrides.task))
    plan = plan_run(config)
    console = Console()
    title = f"{type(plan.objective).__name__} on {chosen('model') or config.model._target_}"
    for heading, table in (
        (f"{title}: {plan.parameters:,} parameters", parameter_table(plan)),
        ("optimizer groups", group_table(plan)),
        ("run", run_table(plan)),
        ("memory per device (estimate)", memory_table(plan)),
        *([("sent per device and step (estimate)", communication_table(plan))] if plan.devices > 1 else []),
    ):
        console.print(f"[bold]{heading}[/bold]", highlight=False)
        console.print(table)
        console.print()
    console.print(f"[dim]learning rate:[/dim] {draw_schedule(config)}", highlight=False)


def parameter_table(plan: Plan) -> Any:
    """Parameters by part of the network."""
    from rich.table import Table

    backbone = cast("nn.Module", plan.objective.backbone)
    blocks = plan.objective.backbone.blocks
    rows: list[tuple[str, int]] = []
    counted: set[int] = set()

    def count(module: nn.Module) -> int:
        new = {id(parameter): parameter.numel() for parameter in module.parameters() if id(parameter) not in counted}
        counted.update(new)
        return sum(new.values())

    for name, child in backbone.named_children():
        if child is not blocks:
            rows.append((name.replace("_", " "), count(child)))
            continue
        rows.append((f"{len(blocks)} blocks, each", count(child)))
        for inner, module in blocks[0].named_children():
            rows.append((f"  {inner.replace('_', ' ')}", sum(parameter.numel() for parameter in module.parameters())))
    rows.append(("heads of the objective", count(plan.objective)))
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("part", style="dim")
    table.add_column("parameters", justify="right")
    table.add_column("share", justify="right", style="dim")
    for name, number in rows:
        if number:
            table.add_row(name, f"{number:,}", "" if name.startswith(" ") else f"{number / plan.parameters:.1%}")
    return table


def group_table(plan: Plan) -> Any:
    """Which parameters are decayed."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("group", "tensors", "parameters", "weight decay", "lr factor"):
        table.add_column(
            column, justify="left" if column == "group" else "right", style="dim" if column == "group" else ""
        )
    default = plan.config.optimizer.get("weight_decay", 0.0)
    for row in plan.groups.rows(plan.objective):
        decay = default if row.weight_decay is None else row.weight_decay
        table.add_row(row.name, f"{row.tensors:,}", f"{row.parameters:,}", f"{decay:g}", f"{row.lr_factor:g}")
    return table


def run_table(plan: Plan) -> Any:
    """Steps, tokens and arithmetic."""
    from rich.table import Table

    from lmmodules.callbacks.progress import format_count

    config = plan.config
    steps = int(config.max_steps)
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="dim")
    table.add_column()
    parts = f"{plan.batch_size} sequences x {plan.length} tokens"
    if plan.accumulation > 1:
        parts += f" x {plan.accumulation} batches"
    if plan.layout.data > 1:
        parts += f" x {plan.layout.data} {'devices' if plan.layout.tensor == 1 else 'groups of devices'}"
    step_flops = 3 * plan.forward_flops * plan.accumulation * plan.layout.data
    table.add_row("optimizer steps", f"{steps:,}")
    table.add_row("tokens per step", f"{plan.tokens_per_step:,} ({parts})")
    table.add_row("tokens in all", format_count(steps * plan.tokens_per_step))
    table.add_row("tokens per parameter", f"{steps * plan.tokens_per_step / plan.parameters:.3g}")
    table.add_row("FLOPs per step", f"{format_flops(step_flops)} (forward once, backward twice)")
    table.add_row("FLOPs in all", format_flops(steps * step_flops))
    return table


def memory_table(plan: Plan) -> Any:
    """Memory of one device, by what holds it."""
    from rich.table import Table

    precision = str(plan.config.trainer.precision)
    half = precision.startswith(("bf16", "16"))
    width = 2 if precision.endswith("-true") and half else 4
    parameters = plan.parameters_per_device
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    activations = plan.kept_activation_bytes / (2 if half else 1)
    rows = {
        "parameters": width * parameters,
        "gradients": width * parameters,
        f"optimizer states ({plan.states_per_parameter} per parameter)": plan.states_per_parameter * width * parameters,
        "activations kept for the backward pass": activations,
    }
    for name, number in rows.items():
        table.add_row(name, f"{number / 1e9:.2f} GB")
    table.add_row("[bold]in all", f"[bold]{sum(rows.values()) / 1e9:.2f} GB")
    layout = plan.layout
    if layout.sharded and layout.data > 1:
        table.add_row("of which sharded", f"over {layout.data} devices")
    if layout.tensor > 1:
        table.add_row("matrices divided", f"over {layout.tensor} devices")
    return table


def communication_table(plan: Plan) -> Any:
    """What a device sends in an optimizer step, by axis."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    for name, number in sent_bytes(plan).items():
        table.add_row(name, f"{number / 1e9:.3g} GB")
    return table


def sent_bytes(plan: Plan) -> dict[str, float]:
    """Bytes that a device sends in an optimizer step, by axis; empty for one device."""
    layout, precision = plan.layout, str(plan.config.trainer.precision)
    half = precision.startswith(("bf16", "16"))
    width = 2 if precision.endswith("-true") and half else 4
    sent = {}
    if layout.tensor > 1:
        blocks = len(plan.objective.backbone.blocks)
        hidden = plan.hidden_bytes // (2 if half else 1)
        sent["tensor axis: activations"] = plan.accumulation * layout.tensor_bytes(blocks, hidden)
    if layout.data > 1:
        kept = plan.parameters_per_device * (layout.data if layout.sharded else 1)
        name = "data axis: parameters and gradients" if layout.sharded else "data axis: gradients"
        gathered = 2 * kept if precision == "bf16-mixed" else None  # as `MeshStrategy` does
        sent[name] = layout.data_bytes(width * kept, plan.accumulation, gathered)
    return sent


def draw_schedule(config: DictConfig) -> str:
    """Draw the learning rate over the run; returns the path, or what keeps it from being drawn."""
    from lmmodules.plots import plot_learning_rate
    from lmmodules.report import shown_path

    schedule = instantiate(config.schedule, _convert_="all")
    steps = int(config.max_steps)
    shown = sorted({round(index * steps / CURVE_POINTS) for index in range(CURVE_POINTS + 1)})
    rates = [config.optimizer.lr * schedule.factor(step, steps) for step in shown]
    title = f"{type(schedule).__name__}: peak {max(rates):.3g}, {steps:,} steps"
    try:
        picture = plot_learning_rate(
            rates, Path(config.paths.output_dir) / "learning_rate.png", title=title, steps=shown
        )
    except InputError as error:
        return str(error)
    return shown_path(picture)


def format_flops(number: float) -> str:
    """FLOPs with the prefix that makes them readable."""
    number = float(f"{number:.3g}")  # 999.7 of one prefix is 1 of the next
    for size, prefix in ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G")):
        if number >= size:
            return f"{number / size:.3g} {prefix}FLOP"
    return f"{number:.3g} FLOP"


if __name__ == "__main__":
    main()
