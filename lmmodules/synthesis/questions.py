"""The questions that are to be solved, wherever they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lmmodules.data.math_courses import CourseQuestion
from lmmodules.data.math_questions import MathQuestion


@dataclass(frozen=True)
class Question:
    """A question, with its answer where it is known.

    Attributes:
        key: What it is called, for example `18.06/3`; no two questions have the same.
        text: In words.
        answer: The right one; empty where nobody has told it.
        course: Or subject; questions are taken for similar within one.
        topic: Within the course; empty where none is named.
        source: What two questions share that are versions of one; neither is then an example for the other.
    """

    key: str
    text: str
    answer: str = ""
    course: str = ""
    topic: str = ""
    source: str = ""


@dataclass(frozen=True)
class Example:
    """A question with a program that is known to print its answer.

    Attributes:
        question: What it answers.
        program: Python source.
    """

    question: Question
    program: str


def course_questions(questions: Sequence[CourseQuestion]) -> list[Question]:
    """Questions of courses as questions to be solved; the published programs stay behind.

    Args:
        questions: As read from a file.
    """
    return [
        Question(course_key(one), one.question, one.answer, one.course, one.topic, course_key(one)) for one in questions
    ]


def course_examples(verified: Sequence[CourseQuestion]) -> list[Example]:
    """Published programs as examples.

    Args:
        verified: Those that `evaluation.course_programs.verify` lets through.
    """
    return [Example(question, one.program) for question, one in zip(course_questions(verified), verified, strict=True)]


def course_key(question: CourseQuestion) -> str:
    """What a question of a course is called; MATH numbers those of each topic by themselves.

    Args:
        question: As read from a file.
    """
    topic = f"/{question.topic}" if question.course == "MATH" else ""
    return f"{question.course}{topic}/{question.number}"


def generated_questions(questions: Sequence[MathQuestion]) -> list[Question]:
    """Generated questions as questions to be solved. Those with the same program are versions of one.

    Args:
        questions: Of `data.math_questions.MathQuestions`.
    """
    return [
        Question(f"{one.kind}/{number}", one.question, one.answer, one.subject, one.kind, one.program)
        for number, one in enumerate(questions)
    ]
