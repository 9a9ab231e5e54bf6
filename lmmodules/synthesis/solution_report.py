"""What a person reads of solutions: one with its program, several as a table per course."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from lmmodules.evaluation.protection import Protection
from lmmodules.synthesis.new_questions import NewQuestion
from lmmodules.synthesis.rates import table
from lmmodules.synthesis.solver import Solution
from lmmodules.synthesis.verdicts import VERDICTS

COLUMNS = {
    "course": "course",
    "questions": "questions",
    "gradable": "gradable",
    "zero_shot": "zero-shot",
    "solved": "solved",
    "rate": "of all",
    "rate_gradable": "of gradable",
}
"""Of the table per course: keys of `rates.rates`, and how they are headed."""
SHOWN_LINES = 40
"""Of a program or of its output; the rest is in the journal."""


def print_solution(solution: Solution, model: str, protection: Protection | None, console: Console) -> None:
    """Print one question with everything that was made of it.

    Args:
        solution: With at least one attempt.
        model: Name of the model.
        protection: What kept programs in; `None` where none ran.
        console: Where to print.
    """
    last, verdict = solution.last, solution.verdict
    _panel(last.prompt, "what the model was given", console)
    if last.program:
        _panel(last.program, "the program it wrote", console)
    else:
        _panel(last.completion or "", "what it wrote", console)
    if last.execution is not None:
        _panel(last.execution.output, "what that printed", console)
        if last.execution.status != "finished":
            _panel(last.execution.errors, "what it complained of", console)
    rows = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    rows.add_column(style="dim")
    rows.add_column()
    rows.add_row("answer", escape(verdict.answer) or "none")
    if solution.question.answer:
        rows.add_row("expected", escape(solution.question.answer))
    rows.add_row("verdict", escape(_in_words(verdict.kind, verdict.reason)))
    stages = dict.fromkeys(_stage(len(attempt.examples)) for attempt in solution.attempts)
    rows.add_row("attempts", ", then ".join(stages))
    rows.add_row("model", escape(model))
    rows.add_row("protection", "no program was run" if protection is None else escape(_told(protection)))
    for number, item in enumerate(solution.explanation, start=1):
        rows.add_row("explanation" if number == 1 else "", f"{number}. {escape(item)}")
    console.print(rows)


def print_solutions(solutions: Sequence[Solution], model: str, protection: Protection | None, console: Console) -> None:
    """Print a line for every question, a table per course, and how often each verdict was given.

    Args:
        solutions: Of any courses.
        model: Name of the model.
        protection: What kept programs in; `None` where none ran.
        console: Where to print.
    """
    lines = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column, width in (("question", None), ("verdict", None), ("answer", 16), ("expected", 16), ("why", None)):
        lines.add_column(column, overflow="ellipsis", no_wrap=True, max_width=width)
    longest = max(len(solution.question.key) for solution in solutions)
    lines.columns[0].min_width, lines.columns[1].min_width = longest, len("needs human")
    for solution in solutions:
        verdict = solution.verdict
        words = (
            solution.question.key,
            verdict.kind.replace("_", " "),
            " ".join(verdict.answer.split()),
            " ".join(solution.question.answer.split()),
            _stage(len(solution.last.examples)) if verdict.correct else verdict.reason,
        )
        lines.add_row(*map(escape, words))
    console.print(lines)
    console.print()
    rows = table(solutions)
    counts = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column, title in COLUMNS.items():
        counts.add_column(title, justify="left" if column == "course" else "right")
    for row in rows:
        cells = [row[column] for column in COLUMNS]
        counts.add_row(*(f"{cell:.1%}" if isinstance(cell, float) else escape(str(cell)) for cell in cells))
    console.print(counts)
    console.print()
    total = rows[-1]
    told = ", ".join(f"{total[kind]} {kind.replace('_', ' ')}" for kind in VERDICTS if total[kind])
    console.print(f"[dim]verdicts[/dim]    {told}")
    console.print(f"[dim]model[/dim]       {escape(model)}", soft_wrap=True)
    kept_in = "no program was run" if protection is None else _told(protection)
    console.print(f"[dim]protection[/dim]  {escape(kept_in)}", soft_wrap=True)


def print_new_questions(made: Mapping[str, Sequence[NewQuestion]], console: Console) -> None:
    """Print questions that were made up, with how new they are.

    Args:
        made: By course.
        console: Where to print.
    """
    for course, questions in made.items():
        console.print(f"[bold]{escape(course)}[/bold]")
        for question in questions:
            duplicate = ", a duplicate" if question.duplicate else ""
            console.print(f"  {escape(question.text)}", soft_wrap=True)
            console.print(
                f"  [dim]novelty {question.novelty:.2f}{duplicate}; nearest: {escape(question.nearest[:100])}[/dim]",
                soft_wrap=True,
            )
        if not questions:
            console.print("  [dim]the model wrote none[/dim]")


def _panel(text: str, title: str, console: Console) -> None:
    lines = text.strip("\n").splitlines()
    more = len(lines) - SHOWN_LINES
    shown = [*lines[:SHOWN_LINES], *([f"... {more} more lines"] if more > 0 else [])]
    body = escape("\n".join(line[:400] for line in shown)) or "[dim]nothing[/dim]"
    console.print(Panel(body, title=title, title_align="left", border_style="dim"))


def _stage(num_examples: int) -> str:
    return "by itself" if num_examples == 0 else f"with {num_examples} example{'s' if num_examples > 1 else ''}"


def _in_words(kind: str, reason: str) -> str:
    return kind.replace("_", " ") + (f": {reason}" if reason else "")


def _told(protection: Protection) -> str:
    return f"{protection.name}: {protection.description}"
