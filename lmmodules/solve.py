"""`lmm-solve`: questions of mathematics, answered by programs that a language model writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lmmodules.command import missing_value, run_command
from lmmodules.errors import InputError, check_seed, check_whole_number

if TYPE_CHECKING:
    from rich.console import Console

    from lmmodules.synthesis.client import Client
    from lmmodules.synthesis.embedding import Embedder
    from lmmodules.synthesis.journal import Journal
    from lmmodules.synthesis.new_questions import NewQuestion
    from lmmodules.synthesis.questions import Example, Question
    from lmmodules.synthesis.solver import Solution

SINGLE = "question"
"""What the one question of the command line is called."""
COURSE_TOLERANCE, EXACT_TOLERANCE = 1e-3, 1e-6
"""Answers of courses are rounded; ours are exact."""


def main() -> None:
    """Console script."""
    run_command(solve, "solve", texts=("question", "answer", "context"))


def solve(config: DictConfig) -> dict[str, Any]:
    """Solve what is asked, or make new questions, or draw those there are; tell how it went, and keep it.

    Args:
        config: Composed from `conf/solve.yaml`.

    Returns:
        What is written to `solved.json`.

    Raises:
        InputError: When nothing is asked, or something that is needed is missing or wrong.
    """
    from rich.console import Console

    from lmmodules.models.floating_point import flush_denormals

    flush_denormals()  # before torch starts its threads
    console = Console(highlight=False)
    check_seed(config.seed)
    questions = questions_asked(config)
    if config.clusters:
        return draw(config, questions, console)
    if config.language_model._target_.endswith(".CheckpointClient") and config.checkpoint is None:
        raise InputError(missing_value("checkpoint"))
    if config.new_questions is not None:
        return make_up(config, questions, console)
    return answer(config, questions, console)


def questions_asked(config: DictConfig) -> list[Question]:
    """The questions that the command line asks, by itself, of courses, or fresh ones.

    Args:
        config: See `solve`.

    Raises:
        InputError: When there are none, or two kinds of them.
    """
    from lmmodules.data.math_questions import MathQuestions
    from lmmodules.synthesis.questions import Question, course_questions, generated_questions

    if config.question is not None and config.generated is not None:
        raise InputError("`question` asks one question and `generated` makes others: give one of them")
    if config.generated is not None and config.course is not None:
        raise InputError("`generated` makes questions and `course` reads others: give one of them")
    if config.answer is not None and config.question is None:
        raise InputError("`answer` is that of `question`, which is missing; give both")
    if config.question is not None:
        if not str(config.question).strip():
            raise InputError("`question` must be a question in words, but is empty")
        return [Question(SINGLE, str(config.question), "" if config.answer is None else str(config.answer))]
    if config.generated is not None:
        fresh = MathQuestions(_plain(config.subjects), seed=config.seed)
        questions = generated_questions(fresh.first(_count("generated", config.generated), held_out=True))
    elif config.course is not None:
        questions = course_questions(_read_courses(config))
    else:
        raise InputError(
            "`question` is missing: give it on the command line, as `question=...`, or questions of a course, as "
            "`course=FILE.csv`, or let some be made, as `generated=20`"
        )
    return questions if config.max_questions is None else questions[: _count("max_questions", config.max_questions)]


def answer(config: DictConfig, questions: Sequence[Question], console: Console) -> dict[str, Any]:
    """Solve questions and show how: one with its program, several as a table.

    Args:
        config: See `solve`.
        questions: To be solved.
        console: Where to print.
    """
    from lmmodules.run_directory import write_json
    from lmmodules.synthesis.client import Decoding
    from lmmodules.synthesis.journal import Journal
    from lmmodules.synthesis.prompts import PromptForm
    from lmmodules.synthesis.rates import rates, table
    from lmmodules.synthesis.solution_report import print_solution, print_solutions
    from lmmodules.synthesis.solver import Solver

    output = output_directory(config)
    if output is not None:
        _make(output)
    numbers = _plain(config.few_shot)
    tolerance = config.evaluation.tolerance
    if tolerance is None:
        tolerance = EXACT_TOLERANCE if config.course is None else COURSE_TOLERANCE
    journal = Journal(None if output is None else output / "attempts.jsonl")
    examples = published_examples(config, journal)
    client: Client = instantiate(config.language_model, _convert_="all")
    form = PromptForm(config.method, config.prompt_style or client.prompt_style, config.context)
    with console.status("") as status:
        solver = Solver(
            client,
            form,
            few_shot=[] if numbers in (0, None) else numbers if isinstance(numbers, list) else [numbers],
            order=config.order,
            examples=examples,
            embedder=embedder(config),
            decoding=Decoding(config.max_new_tokens, config.temperature, config.top_p, form.stop, config.seed),
            limits=instantiate(config.evaluation.limits),
            workers=config.evaluation.workers,
            protection=config.evaluation.protection,
            tolerance=tolerance,
            explain=config.explain,
            journal=journal,
            tell=lambda stage, made, all_of_them: status.update(f"{stage}: {made} of {all_of_them}"),
        )
        solutions = solver(questions)
    single = config.question is not None
    if single:
        print_solution(solutions[0], client.name, solver.protection, console)
    else:
        print_solutions(solutions, client.name, solver.protection, console)
    summary: dict[str, Any] = {
        "model": client.name,
        "protection": None if solver.protection is None else solver.protection.name,
        **rates(solutions),
        "by_course": table(solutions),
        "solutions": [_told(solution) for solution in solutions],
    }
    if output is not None:
        write_json(output / "solved.json", summary)
        _say_where(output / "solved.json", console)
    return summary


def make_up(config: DictConfig, questions: Sequence[Question], console: Console) -> dict[str, Any]:
    """Have new questions made up for each course, and show how new they are.

    Args:
        config: See `solve`.
        questions: Of the courses.
        console: Where to print.
    """
    from dataclasses import asdict

    from lmmodules.run_directory import write_json
    from lmmodules.synthesis.new_questions import new_questions
    from lmmodules.synthesis.solution_report import print_new_questions

    count = _count("new_questions", config.new_questions)
    output = output_directory(config) or Path("runs", "solve")
    _make(output)
    client: Client = instantiate(config.language_model, _convert_="all")
    similarity = embedder(config)
    made: dict[str, list[NewQuestion]] = {}
    for course in dict.fromkeys(question.course for question in questions):
        mine = [question for question in questions if question.course == course]
        made[course] = new_questions(mine, client, similarity, count, temperature=config.temperature, seed=config.seed)
    print_new_questions(made, console)
    summary = {
        "model": client.name,
        "new_questions": {course: [asdict(one) for one in several] for course, several in made.items()},
    }
    write_json(output / "new_questions.json", summary)
    _say_where(output / "new_questions.json", console)
    return summary


def draw(config: DictConfig, questions: Sequence[Question], console: Console) -> dict[str, Any]:
    """Draw questions by similarity, a colour per course.

    Args:
        config: See `solve`.
        questions: To be drawn.
        console: Where to print.

    Raises:
        InputError: When there are fewer than three questions.
    """
    from lmmodules.synthesis.clusters import draw_clusters, neighbours_of_the_course

    if len(questions) < 3:
        raise InputError(f"`clusters` needs at least 3 questions to draw, but there are {len(questions)}")
    output = output_directory(config) or Path("runs", "solve")
    _make(output)
    vectors = embedder(config)([question.text for question in questions])
    courses = [question.course for question in questions]
    picture = draw_clusters(vectors, courses, output / "clusters.png")
    share = neighbours_of_the_course(vectors, courses)
    console.print(f"{len(questions)} questions of {len(set(courses))} courses")
    console.print(f"the most similar other question is of the same course: {share:.1%}")
    _say_where(picture, console)
    return {"questions": len(questions), "neighbour_of_the_course": share, "picture": str(picture)}


def published_examples(config: DictConfig, journal: Journal) -> list[Example]:
    """What is shown as solved from the start: programs of the courses that run to their answers, if that is wished.

    Args:
        config: See `solve`.
        journal: Where it is kept which of them do.

    Raises:
        InputError: When there is no such choice, or no course to take them from.
    """
    from lmmodules.synthesis.verified_examples import verified_examples

    if config.examples not in ("own", "published"):
        raise InputError(f"`examples` must be own or published, but is {config.examples}; use `examples=own`")
    if config.examples == "own" or config.method != "program" or config.few_shot == 0:
        return []
    if config.course is None:
        raise InputError("`examples=published` are the programs of a course, which is missing; use `course=FILE.csv`")
    asked = config.evaluation
    limits = instantiate(asked.limits)
    return verified_examples(_read_courses(config), journal, limits, asked.workers, protection=asked.protection)


def embedder(config: DictConfig) -> Embedder:
    """What tells how similar questions are.

    Args:
        config: See `solve`.
    """
    from lmmodules.synthesis.embedding import EncoderEmbedder, NgramEmbedder

    return NgramEmbedder() if config.encoder is None else EncoderEmbedder(config.encoder)


def output_directory(config: DictConfig) -> Path | None:
    """Where things are kept; `None` for nowhere.

    Args:
        config: See `solve`.
    """
    if config.output is not None:
        return Path(config.output)
    return None if config.question is not None else Path("runs", "solve")


def _read_courses(config: DictConfig) -> list[Any]:
    from lmmodules.data.math_courses import read_course

    files = _plain(config.course)
    return [
        question for file in ([files] if isinstance(files, str) else files or []) for question in read_course(str(file))
    ]


def _make(output: Path) -> None:
    """Make the place for what is kept, before anything is asked that could not be kept."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"`output` must be a directory that can be made, but `{output}` cannot ({error.strerror}); use "
            "`output=runs/solve`"
        ) from error


def _count(name: str, value: object) -> int:
    check_whole_number(name, value, least=1, remedy=f"{name}=20")
    return cast(int, value)


def _plain(value: Any) -> Any:
    return cast(Any, OmegaConf.to_container(value)) if OmegaConf.is_config(value) else value


def _told(solution: Solution) -> dict[str, Any]:
    last = solution.last
    return {
        "question": solution.question.key,
        "verdict": solution.verdict.kind,
        "reason": solution.verdict.reason,
        "stage": last.stage,
        "examples": list(last.examples),
        "answer": solution.verdict.answer,
        "expected": solution.question.answer,
        "program": last.program,
        "explanation": list(solution.explanation),
    }


def _say_where(path: Path, console: Console) -> None:
    from lmmodules.report import shown_path

    console.print(f"[dim]written to[/dim] {shown_path(path)}", soft_wrap=True)


if __name__ == "__main__":
    main()
