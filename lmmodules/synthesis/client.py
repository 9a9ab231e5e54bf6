"""What a language model is to the pipeline: something that writes on from prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lmmodules.errors import InputError, check_number, check_seed, check_whole_number
from lmmodules.evaluation.stops import until


@dataclass(frozen=True)
class Decoding:
    """How a model writes.

    Args:
        max_new_tokens: Most tokens of a completion.
        temperature: 0 takes the likeliest token.
        top_p: Draw among the fewest tokens that together have this probability; `None` for all.
        stop: Texts that end a completion; they are not part of it.
        seed: Of the draws.

    Raises:
        InputError: When a number is out of range.

    Source:
        Temperature 0 and 256 tokens are those of `code/zero-shot.py` in the repository idrori/mathQ.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole_number("max_new_tokens", self.max_new_tokens, least=1, remedy="max_new_tokens=256")
        check_number("temperature", self.temperature, least=0, remedy="temperature=0")
        check_seed(self.seed)
        if self.top_p is not None and not (isinstance(self.top_p, int | float) and 0 < self.top_p <= 1):
            raise InputError(f"`top_p` must be above 0 and at most 1, but is {self.top_p}; use `top_p=null`")

    def cut(self, text: str) -> str:
        """A text up to the first of `stop` in it.

        Args:
            text: Written by a model that may have written on.
        """
        return until(text, self.stop)


class Client(Protocol):
    """A language model behind a protocol: a checkpoint, a published model, or one at the end of a wire.

    Attributes:
        name: What it is; two clients of one name write the same.
        prompt_style: The form of a prompt for a program that it is used to.
        batch_size: How many prompts it is given at a time.
    """

    @property
    def name(self) -> str:
        """What it is; two clients of one name write the same."""
        ...

    @property
    def prompt_style(self) -> str:
        """The form of a prompt for a program that it is used to, one of `data.math_prompts.PROMPTS`."""
        ...

    @property
    def batch_size(self) -> int:
        """How many prompts it is given at a time."""
        ...

    def fits(self, prompt: str, decoding: Decoding) -> bool:
        """Whether there is room for a prompt and what is to be written behind it.

        Args:
            prompt: To be written on from.
            decoding: How much is written.
        """
        ...

    def complete(self, prompts: Sequence[str], decoding: Decoding) -> list[str]:
        """Write on from prompts.

        Args:
            prompts: At most `batch_size` of them, each of which fits.
            decoding: How.
        """
        ...
