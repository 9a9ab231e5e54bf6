"""From what a model wrote to the program in it."""

from __future__ import annotations

import re

BLOCK = re.compile(r"```[ \t]*(?:python3?|py)?[ \t]*\n(.*?)\n?[ \t]*```", re.S | re.I)
OPEN_BLOCK = re.compile(r"(?:\A\s*```[ \t]*|```[ \t]*(?:python3?|py)[ \t]*)\n(.*)", re.S | re.I)
"""One that was not closed: it stands at the beginning, or says that it is Python."""
QUOTES = re.compile(r'^"""', re.M)


def program_of(completion: str) -> str:
    """The program in a completion.

    It is the first block between fences where there is one. Otherwise it ends where the next question in quotes
    begins, at a fence, or with the text. Quotes that are indented belong to a function of the program.

    Args:
        completion: Written behind a prompt.

    Differences:
        Drori et al. take everything up to 256 tokens, and a person runs what makes sense of it.
    """
    block = BLOCK.search(completion) or OPEN_BLOCK.search(completion)
    if block:
        return block[1].strip("\n").rstrip()
    text = completion.partition("```")[0]
    end = QUOTES.search(text)
    return text[: end.start() if end else None].strip("\n").rstrip()


def explanation_of(completion: str) -> list[str]:
    """The items of a numbered list whose first number stands in the prompt.

    Args:
        completion: Written behind `prompts.explanation_prompt`.
    """
    items = re.split(r"^\s*\d+[.)]\s*", completion.partition("'''")[0].strip(), flags=re.M)
    return [" ".join(item.split()) for item in items if item.strip()]
