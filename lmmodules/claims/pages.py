"""Pages of results: one per claim, and the table of all of them. They are made from the JSON files and the claims."""

from __future__ import annotations

import math
import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path

from lmmodules.claims.base import SCALES, Claim
from lmmodules.claims.results import Result
from lmmodules.claims.rules import mean
from lmmodules.plots import plot_claim
from lmmodules.run_directory import write_text

MADE_BY = "<!-- Written by lmm-reproduce from the JSON file beside it. -->"

LONGEST_CURVE = 8
"""Points of a curve that are worth a row of figures."""

INDEX_TEXT = (
    "# Claims of the papers, measured here\n\n"
    "`lmm-reproduce` trains what a claim is about, several seeds of it, and judges by a rule that is written down with "
    "the claim. What does not hold is shown as well. `lmm-reproduce paper=NAME claim=NAME` measures one of them again."
)


def write_page(result: Result, directory: Path) -> Path:
    """Write the page of a claim and draw its picture.

    Args:
        result: What was measured.
        directory: Where the results are.

    Returns:
        The page.

    Raises:
        InputError: When matplotlib is not installed.
    """
    plot_claim(
        result.curves(),
        {arm: result.figures(arm) for arm in result.arms},
        directory / f"{result.stem}.png",
        unit=result.claim.unit,
        curve_label=result.claim.curve_label,
        baseline=None if result.unigram_entropy is None else ("without context", result.unigram_entropy),
    )
    page = directory / f"{result.stem}.md"
    write_text(page, render_page(result))
    return page


def write_index(claims: Sequence[Claim], directory: Path) -> Path:
    """Write the table of all claims, those included that have not been measured.

    Args:
        claims: All there are.
        directory: Where the results are.

    Returns:
        The file, `README.md`.
    """
    path = directory / "README.md"
    write_text(path, render_index(claims, directory))
    return path


def render_page(result: Result) -> str:
    """The page of a claim, in Markdown.

    Args:
        result: What was measured.
    """
    claim = result.claim
    sections = [
        MADE_BY,
        f"# {_title(claim)}",
        f"> {claim.statement}",
        f"**{verdict(result)}** in {_count(len(result.seeds), 'seed')} at scale `{result.scale}`.",
        f"![{claim.unit}]({result.stem}.png)",
        _figures_table(result),
        _curves_table(result),
        "## When it holds",
        _findings_table(result),
        "## What the paper says",
        f"{claim.source}. {claim.reported}",
        "## What was run",
        _protocol(result) if result.facts else claim.remarks,
        *_tables(result),
        "## Where",
        _environment(result),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def render_index(claims: Sequence[Claim], directory: Path) -> str:
    """The table of all claims, in Markdown.

    Args:
        claims: All there are.
        directory: Where the JSON files are.
    """
    rows = []
    for claim in claims:
        results = [result for scale in SCALES if (result := Result.read(claim, scale, directory)) is not None]
        rows += [_index_row(result) for result in results]
        if not results:
            rows.append([claim.paper, claim.statement, claim.reported, "", "", "not measured yet", ""])
    head = ["paper", "claim", "the paper's figure", "ours, mean ± standard deviation", "seeds", "verdict", "training"]
    return "\n\n".join([MADE_BY, INDEX_TEXT, _table(head, rows)]) + "\n"


def _index_row(result: Result) -> list[str]:
    claim = result.claim
    measured = ", ".join(f"{arm} {_spread(result, arm)}" for arm in result.arms)
    return [
        claim.paper,
        f"[{claim.statement}]({result.stem}.md)",
        claim.reported,
        f"{measured} ({claim.unit})",
        str(len(result.seeds)),
        verdict(result),
        _duration(result.seconds) + ("" if result.scale == "cpu" else f", {result.scale}"),
    ]


def verdict(result: Result) -> str:
    """Whether the claim held, in words."""
    return "held" if result.held else "did not hold"


def _title(claim: Claim) -> str:
    return f"{claim.paper}: {claim.name.replace('_', ' ')}"


def _figures_table(result: Result) -> str:
    head = [result.claim.unit, "mean", "standard deviation", *(f"seed {seed}" for seed in result.seeds)]
    rows = [
        [arm, figure(result.mean(arm)), figure(result.standard_deviation(arm)), *map(figure, result.figures(arm))]
        for arm in result.arms
    ]
    return _table(head, rows)


def _curves_table(result: Result) -> str:
    """The curves in figures, where they have few enough points to be read."""
    curves = {arm: [dict(curve) for curve in seeds] for arm, seeds in result.curves().items()}
    places = sorted({place for seeds in curves.values() for curve in seeds for place in curve})
    if not 2 <= len(places) <= LONGEST_CURVE:
        return ""
    rows = []
    for arm, seeds in curves.items():
        values = [[curve[place] for curve in seeds if place in curve] for place in places]
        rows.append([arm, *(figure(mean(found)) if len(found) == len(seeds) else "" for found in values)])
    return _table([f"{result.claim.curve_label}, means", *(f"{place:g}" for place in places)], rows)


def _findings_table(result: Result) -> str:
    rows = [
        [finding.rule, figure(finding.difference), figure(finding.standard_error), "yes" if finding.held else "**no**"]
        for finding in result.findings()
    ]
    return _table(["rule", "mean difference", "standard error", "met"], rows)


def _tables(result: Result) -> list[str]:
    """What the first seed tells besides."""
    sections = []
    for heading, rows in next(iter(result.seeds.values())).tables.items():
        head = [name.replace("_", " ") for name in rows[0]] if rows else ["none"]
        cells = [[" ".join(str(value).split()) for value in row.values()] for row in rows]  # a cell is one line
        sections += [f"## {heading}", _table(head, cells)]
    return sections


def _protocol(result: Result) -> str:
    """What all runs have in common, then what each has of its own."""
    every = list(result.facts.values())
    common = {name: fact for name, fact in every[0].items() if all(facts.get(name) == fact for facts in every)}
    given = list(result.overrides.values())
    shared = [override for override in given[0] if all(override in overrides for overrides in given)]
    rows = []
    for arm, facts in result.facts.items():
        own = [f"{name}: {_code(fact)}" for name, fact in facts.items() if name not in common]
        added = [f"`{override}`" for override in result.overrides[arm] if override not in shared]
        rows.append([arm, " ".join(added), "<br>".join(own)])
    seeds = " and ".join(filter(None, [", ".join(map(str, [*result.seeds][:-1])), str([*result.seeds][-1])]))
    sections = [
        result.claim.remarks,
        _table(["all runs", ""], [[name, _code(fact)] for name, fact in common.items()]),
        f"```\n{_command(shared)}\n```",
        _table(["run", "and", "which makes"], rows),
        f"Each with `seed=` {seeds}.",
    ]
    return "\n\n".join(section for section in sections if section)


def _command(overrides: Sequence[str]) -> str:
    """The command in lines that end in a backslash."""
    text = shlex.join(["lmm-train", *overrides])
    lines = textwrap.wrap(text, 100, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return " \\\n".join(lines)


def _environment(result: Result) -> str:
    facts = ", ".join(f"{name} {fact}" for name, fact in result.environment.items() if fact is not None)
    training = f"{_duration(result.seconds)} of training in all" if result.facts else "Nothing was trained"
    return f"{training}. {facts}."


def figure(value: float | None) -> str:
    """A figure with as many digits as are worth reading.

    Args:
        value: Infinite for a run that diverged, `None` for what cannot be computed.
    """
    if value is None or math.isnan(value):
        return "-"
    return "diverged" if math.isinf(value) else f"{value:.3f}"


def _spread(result: Result, arm: str) -> str:
    deviation = result.standard_deviation(arm)
    return figure(result.mean(arm)) + ("" if deviation is None else f" ± {figure(deviation)}")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _code(fact: str) -> str:
    """What looks like a call is set as code."""
    return f"`{fact}`" if fact.endswith(")") and " " not in fact.partition("(")[0] else fact


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
