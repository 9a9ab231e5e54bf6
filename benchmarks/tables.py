"""The results of a case on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from benchmarks.results import CandidateResult, CaseResult, Ratio, decisive_clock, median, memory_ratio, speed_ratio
from benchmarks.workload import OURS, Comparison

BAR_WIDTH = 18


def show_case(title: str, case: CaseResult, console: Console) -> None:
    """Print what each candidate took, and how they compare.

    Args:
        title: Of the workload.
        case: Its rounds.
        console: Where to.
    """
    heading = f"[bold]{title}[/bold] · {case.name}"
    console.print(
        Panel(
            Group(_candidates(case), Text(), _comparisons(case), Text(), _footer(case)),
            title=heading,
            title_align="left",
            border_style="dim",
            expand=False,
        )
    )


def show_growth(title: str, fixed: str, rows: Sequence[Sequence[str]], console: Console) -> None:
    """Print what a study found.

    Args:
        title: Of the study.
        fixed: What stayed.
        rows: The head, and a row for each point.
        console: Where to.
    """
    head, *points = rows
    grid = Table(*head, title=f"[bold]{title}[/bold]", caption=fixed, box=box.SIMPLE_HEAD, title_justify="left")
    for column in grid.columns:
        column.justify = "right"
    for point in points:
        grid.add_row(*point)
    console.print(grid)


def _candidates(case: CaseResult) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    table.add_column("")
    table.add_column("a step", justify="right")
    table.add_column("processor", justify="right")
    table.add_column(f"{case.unit}/s", justify="right")
    if any(candidate.operations for candidate in case.candidates):
        table.add_column("GFLOP/s", justify="right")
        table.add_column("of matmul", justify="right")
    if any(candidate.memory_mb for candidate in case.candidates):
        table.add_column("memory", justify="right")
    for candidate in case.candidates:
        name = Text(candidate.name, style="bold cyan" if candidate.name.startswith(OURS) else "")
        if candidate.skipped is not None:
            table.add_row(name, Text("not measured: " + candidate.skipped, style="yellow"))
            continue
        table.add_row(name, *_figures(case, candidate, table))
    return table


def _figures(case: CaseResult, candidate: CandidateResult, table: Table) -> list[str]:
    wall = median(candidate.wall)
    figures = [shown_seconds(wall), shown_seconds(median(candidate.processor)), shown_rate(case.units / wall)]
    headers = [str(column.header) for column in table.columns]
    if "GFLOP/s" in headers:
        figures += [
            f"{(candidate.operations or 0) / wall / 1e9:,.0f}",
            f"{share_of_matrix_product(case, candidate):.0%}",
        ]
    if "memory" in headers:
        figures.append("" if candidate.memory_mb is None else f"{candidate.memory_mb:,.0f} MB")
    return figures


def _comparisons(case: CaseResult) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    for comparison in case.comparisons:
        ratio, processor = speed_ratio(case, comparison), speed_ratio(case, comparison, "processor")
        name = ("" if comparison.ours == OURS else f"{comparison.ours}, ") + f"against {comparison.peer}"
        name += f", beyond {comparison.beyond}" if comparison.beyond else ""
        if ratio is None or processor is None:
            table.add_row(name, "", Text("not measured", style="yellow"))
            continue
        word, style = verdict(processor if decisive_clock(case) == "processor" else ratio, comparison)
        table.add_row(
            name,
            _bar(ratio, comparison, style),
            Text(f"{ratio.median:.2f}x", style=f"bold {style}"),
            Text(f"[{ratio.lower:.2f} .. {ratio.upper:.2f}]", style="dim"),
            Text(f"processor {processor.median:.2f}x", style="dim"),
            Text(word, style=style),
        )
        memory = memory_ratio(case, comparison)
        if memory is not None:
            reached = comparison.memory_goal is None or memory <= comparison.memory_goal
            goal = "" if comparison.memory_goal is None else f"goal at most {comparison.memory_goal:g}x"
            style = "dim" if comparison.memory_goal is None else "green" if reached else "red"
            table.add_row(
                Text("  memory", style="dim"), "", Text(f"{memory:.2f}x", style=style), "", "", Text(goal, style=style)
            )
    return table


def _bar(ratio: Ratio, comparison: Comparison, style: str) -> Text:
    """How far to the goal, which is where the mark stands."""
    full = max(ratio.median, comparison.goal or 0.0) * 1.05 or 1.0
    filled = round(BAR_WIDTH * max(ratio.median, 0.0) / full)
    bar = Text("━" * filled, style=style) + Text("─" * (BAR_WIDTH - filled), style="dim")
    if comparison.goal is None:
        return bar
    mark = min(BAR_WIDTH - 1, round(BAR_WIDTH * comparison.goal / full))
    return bar[:mark] + Text("┃", style="bold") + bar[mark + 1 :]


def _footer(case: CaseResult) -> Text:
    environment, rounds = case.environment, max((len(candidate.wall) for candidate in case.candidates), default=0)
    machine = f"{environment['processor']}, {environment['cores']} cores, {environment['threads']} threads"
    if not case.matrix_product:
        return Text(machine, style="dim")
    told = f"{machine}\n{rounds} rounds · matrix product {median(case.matrix_product) / 1e9:,.0f} GFLOP/s"
    if case.waiting_share is None:
        return Text(told, style="dim")
    told += f" · something waited for a processor {case.waiting_share:.0%} of the time"
    if decisive_clock(case) == "processor":
        told += ": judged by processor time"
        if environment.get("idle_threads") == "awake":
            told += ", which counts threads that only wait; measure again with `--idle asleep`"
        return Text(told, style="yellow")
    return Text(told, style="dim")


def verdict(ratio: Ratio, comparison: Comparison) -> tuple[str, str]:
    """What a ratio means, in words and as a colour.

    Args:
        ratio: By the decisive clock.
        comparison: With its goal and floor, or neither.
    """
    if comparison.goal is None:
        return "", "cyan"
    if ratio.median >= comparison.goal:
        return f"goal {comparison.goal:g}x reached", "green"
    if comparison.floor is not None and ratio.median < comparison.floor:
        return f"below the floor {comparison.floor:g}x (goal {comparison.goal:g}x)", "red"
    return f"goal {comparison.goal:g}x", "yellow"


def share_of_matrix_product(case: CaseResult, candidate: CandidateResult) -> float:
    """Operations per second of a candidate as a share of what a matrix product reached in the same rounds."""
    pairs = zip(candidate.wall, case.matrix_product, strict=True)
    return median([(candidate.operations or 0) / wall / product for wall, product in pairs])


def shown_seconds(seconds: float) -> str:
    """Three digits and the unit they need."""
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1 or unit == "us":
            return f"{seconds * scale:.{0 if seconds * scale >= 100 else 1 if seconds * scale >= 10 else 2}f} {unit}"
    raise AssertionError


def shown_rate(rate: float) -> str:
    """A rate with commas, or with digits behind the point where it is small."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.2f}"
