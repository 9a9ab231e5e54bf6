"""`docs/speed.md`: a page made from the stored results, and from nothing else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks import growth
from benchmarks.growth import Growth
from benchmarks.results import (
    CaseResult,
    Earlier,
    WorkloadResult,
    decisive_clock,
    load_all,
    median,
    memory_ratio,
    speed_ratio,
)
from benchmarks.tables import share_of_matrix_product, shown_rate, verdict
from benchmarks.workload import OURS, Comparison, summaries

LEAST_SHARE = 0.01
"""Share of the time of a candidate from which a kind of work is told by itself."""
PAGE = Path(__file__).parent.parent / "docs" / "speed.md"

_HEAD = """\
# Speed

Ours and what a user would take instead, measured in alternation in one process: same sizes, same data, same threads,
same weights where weights matter. Before anything is timed, losses and gradients (or tokens, or shares of masks) are
compared, and a peer that computes something else is left out. Ours is the path of every run: the token store, the
transform, `training_step` of the LightningModule and its optimizer.

- *faster* is the median over the rounds of the ratio within a round, with its quartiles; above 1 ours is faster.
- *processor* is the same ratio by processor time of all threads. Idle threads wait awake, as PyTorch has it, and that
  is counted; with `--idle asleep` it is the work alone, which other work on the machine disturbs less, but waking them
  for every operator takes ours and the peer the same time, and so most of all what has many small ones.
  Where something had to wait for a processor more than a tenth of the time, goals are judged by it.
- *of a matrix product* is the speed of ours in floating-point operations that are really done, as a share of what a
  square matrix product reaches at the start of the same rounds.
- *memory* is what three steps add to a fresh process at their peak, ours over the peer's.
- What memory costs that is touched for the first time changes on a virtual machine, and peers that make their logits
  anew in every step change with it: the row of a GPT of eighty lines at vocabulary 8,192 came to 0.97, 0.99 and 1.15
  within half an hour.
- *measured before* are the ratios that stood here earlier, with the commit and the day; those of the EPYC from
  before 2026-11-29 were taken with idle threads asleep.
- *milliseconds of a step* are those of steps that were recorded after all rounds, which slows them a little; they tell
  what is left to gain and where. Where operators of PyTorch are not what takes the time, they are shares of the step's
  median by function (our own as *module, function*) and by package, from calls that were recorded.

`python -m benchmarks WORKLOAD` measures again, `--store` keeps it and makes this page, `--list` tells what there is.
"""

_GROWTH = """\
## How cost grows

One size of a training step grows while the others stay; every point is the median of several processes of its own.
*Grows as* is the power since the point before: x^1 is in proportion. Memory is what the work adds to the process at its
peak. `python -m benchmarks.growth` measures again.

![time and memory over each size](growth.png)
"""


def store_page() -> None:
    """Make the page from all that is stored."""
    PAGE.write_text(render(load_all(), growth.load_all()))


def render(results: Sequence[WorkloadResult], growths: Sequence[Growth] = ()) -> str:
    """The page.

    Args:
        results: As stored.
        growths: As stored.
    """
    sections = [_section(result) for result in results if result.cases]
    stored = {result.workload for result in results if result.cases}
    missing = [f"- `{name}`: {summary}" for name, summary in summaries().items() if name not in stored]
    if missing:
        sections.append("## Without stored results\n\n" + "\n".join(missing) + "\n")
    if growths:
        sections += [_GROWTH, *map(_study, growths)]
    return "\n".join([_HEAD, *sections])


def _study(found: Growth) -> str:
    study = growth.STUDIES[found.study]
    head, *rows = growth.table(found)
    lines = [f"### {study.title}", "", f"{study.fixed}. *{_machine(found.environment)}*", ""]
    lines += [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in rows), ""]
    return "\n".join(lines)


def _section(result: WorkloadResult) -> str:
    lines = [f"## {result.title}", "", f"`{result.workload}`. {summaries().get(result.workload, '')}", ""]
    for machine, cases in groupby(result.cases, key=_conditions):
        lines += [
            f"*{machine}*",
            "",
            "| case | peer | faster | processor | goal | ours | of a matrix product | memory |",
            "|---|---|---|---|---|---|---|---|",
        ]
        cases = list(cases)
        lines += [_row(case, comparison) for case in cases for comparison in case.comparisons]
        lines.append("")
        lines += _time_by_kind(cases)
    return "\n".join([*lines, *_history(result)])


def _history(result: WorkloadResult) -> list[str]:
    """A table of what comparisons with a goal came to before, the oldest first."""
    found: dict[tuple[str, str, str], list[Earlier]] = {}
    for once in result.history:
        found.setdefault((once.case, once.ours, once.peer), []).append(once)
    if not found:
        return []
    lines = ["| case | peer | measured before |", "|---|---|---|"]
    for (case, ours, peer), times in found.items():
        who = case if ours == OURS else f"{case} ({ours})"
        lines.append(f"| {who} | {peer} | {', '.join(map(_once, times))} |")
    return [*lines, ""]


def _once(found: Earlier) -> str:
    commit = "" if found.commit is None else f"`{found.commit}`, "
    return f"{found.faster:.2f} ({commit}{found.date}, {found.processor})"


def _time_by_kind(cases: Sequence[CaseResult]) -> list[str]:
    """A table of what ours, and the peer it is compared with first, spend on each kind of work."""
    columns = []
    for case in cases:
        first = case.comparisons[0]
        for name in (first.ours, first.peer):
            if case.candidate(name).kinds:
                columns.append((f"{name}, {case.name}", case.candidate(name).kinds))
    if not columns:
        return []
    shares: defaultdict[str, list[float]] = defaultdict(list)
    for _, kinds in columns:
        for kind, value in kinds.items():
            shares[kind].append(value / sum(kinds.values()))
    shown = sorted((kind for kind in shares if max(shares[kind]) >= LEAST_SHARE), key=lambda kind: -sum(shares[kind]))
    digits = 1 if min(sum(kinds.values()) for _, kinds in columns) >= 10 else 3
    lines = [
        f"| milliseconds of a step | {' | '.join(head for head, _ in columns)} |",
        "|" + "---|" * (len(columns) + 1),
    ]
    rows = [(kind, [kinds.get(kind, 0.0) for _, kinds in columns]) for kind in shown]
    rest = [sum(value for kind, value in kinds.items() if kind not in shown) for _, kinds in columns]
    if any(round(value, digits) for value in rest):
        rows.append(("the rest", rest))
    for kind, values in rows:
        lines.append(f"| {kind} | {' | '.join(f'{value:.{digits}f}' for value in values)} |")
    return [*lines, ""]


def _row(case: CaseResult, comparison: Comparison) -> str:
    ours, peer = case.candidate(comparison.ours), case.candidate(comparison.peer)
    name = peer.name + (f", beyond {comparison.beyond}" if comparison.beyond else "")
    who = case.name if comparison.ours == OURS else f"{case.name} ({comparison.ours})"
    ratio, processor = speed_ratio(case, comparison), speed_ratio(case, comparison, "processor")
    if ratio is None or processor is None:
        reason = peer.skipped or ours.skipped
        return f"| {who} | {name} | not measured: {reason} | | | | | |"
    word, colour = verdict(processor if decisive_clock(case) == "processor" else ratio, comparison)
    goal = word and {"green": f"**{comparison.goal:g}** reached", "red": word}.get(colour, f"{comparison.goal:g}")
    share = f"{share_of_matrix_product(case, ours):.0%}" if ours.operations else ""
    memory = memory_ratio(case, comparison)
    cells = [
        who,
        name,
        f"**{ratio.median:.2f}** ({ratio.lower:.2f} to {ratio.upper:.2f})",
        f"{processor.median:.2f}",
        goal,
        f"{shown_rate(case.units / median(ours.wall))} {case.unit}/s",
        share,
        "" if memory is None else f"{memory:.2f} ({ours.memory_mb:,.0f} MB)",
    ]
    return f"| {' | '.join(cells)} |"


def _conditions(case: CaseResult) -> str:
    """Where and with what, in one line; cases that were measured alike stand under one."""
    return _machine(case.environment)


def _machine(found: Mapping[str, Any]) -> str:
    versions = ", ".join(
        f"{package} {found['versions'][package]}"
        for package in ("torch", "lightning", "transformers", "datasets", "litgpt")
        if package in found["versions"]
    )
    machine = f"{found['processor']}, {found['cores']} cores, {found['memory_gb']} GiB, {found['threads']} threads"
    machine += ", idle asleep" if found.get("idle_threads") in ("passive", "asleep") else ""
    return f"{found['date']}: {machine}; {versions}"
