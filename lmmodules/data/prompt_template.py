"""The template language: pseudo-tokens, inputs, words and the answer, in any order.

    {prompt:3} {subject} {prompt:3} {target} {prompt:3}
    {premise|shorten} Question: {hypothesis|shorten}? {prompt} Answer: {target}.

`{prompt:3}` are three pseudo-tokens and `{target}` is the answer; any other name in braces is a field of the row, which
may be cut at its end where a row is too long if `|shorten` says so; `{sep}` is the special token that separates two
texts. What stands outside of braces are anchors, ordinary words that stay as they are. White space belongs to what
follows it, and means nothing before a pseudo-token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lmmodules.errors import InputError

_BRACES = re.compile(r"\{(\w+)(?::(\d+))?(\|shorten)?\}")


@dataclass(frozen=True)
class Anchor:
    """Words that stay as they are.

    Args:
        text: The words, with white space before them.
    """

    text: str


@dataclass(frozen=True)
class Input:
    """A field of the row.

    Args:
        field: Its name.
        space: White space before it.
        shorten: Whether it may be cut.
    """

    field: str
    space: str
    shorten: bool


@dataclass(frozen=True)
class PseudoTokens:
    """Places of learned embeddings.

    Args:
        count: How many.
    """

    count: int


@dataclass(frozen=True)
class Separator:
    """The special token between two texts."""


@dataclass(frozen=True)
class Target:
    """The answer.

    Args:
        space: White space before it.
    """

    space: str


Part = Anchor | Input | PseudoTokens | Separator | Target


@dataclass(frozen=True)
class PromptTemplate:
    """A template, read.

    Args:
        text: As it is written; see the module.

    Raises:
        InputError: When it has no target or two, a brace that opens nothing, or a pseudo-token zero times.
    """

    text: str

    def __post_init__(self) -> None:
        targets = sum(isinstance(part, Target) for part in self.parts)
        if targets != 1:
            raise InputError(
                f"`data.template` must have one {{target}}, but {self.text!r} has {targets or 'none'}; use for example "
                "`data.template='{prompt:3} {subject} {prompt:3} {target}'`"
            )

    @property
    def parts(self) -> tuple[Part, ...]:
        """What it consists of, in order."""
        parts: list[Part] = []
        space, end = "", 0
        for found in _BRACES.finditer(self.text):
            space = self._words(self.text[end : found.start()], space, parts)
            parts.append(self._part(found, space))
            space, end = "", found.end()
        self._words(self.text[end:], space, parts)
        return tuple(parts)

    @property
    def num_prompt_tokens(self) -> int:
        """Pseudo-tokens P."""
        return sum(part.count for part in self.parts if isinstance(part, PseudoTokens))

    @property
    def fields(self) -> list[str]:
        """Names of the fields, each once."""
        return list(dict.fromkeys(part.field for part in self.parts if isinstance(part, Input)))

    @property
    def is_prefix(self) -> bool:
        """Whether all pseudo-tokens stand before everything else."""
        kinds = [isinstance(part, PseudoTokens) for part in self.parts]
        return any(kinds) and kinds == sorted(kinds, reverse=True)

    def before_target(self) -> PromptTemplate:
        """What a causal model sees of it: nothing behind the target.

        Raises:
            InputError: When nothing stands before the target, or a pseudo-token behind it.
        """
        before, _, behind = self.text.partition("{target}")
        if not before.strip():
            raise InputError(
                f"`data.template` must have something before {{target}} for a causal model, but is {self.text!r}"
            )
        if "{prompt" in behind:
            raise InputError(
                "`data.template` must not have a pseudo-token behind {target} for a causal model, which does not see "
                f"it, but is {self.text!r}; use for example `data.template='{before.strip()} {{target}}'`"
            )
        return PromptTemplate(before + "{target}")

    def check_fields(self, known: Sequence[str]) -> None:
        """Compare the fields with those of the rows.

        Args:
            known: Names there are.

        Raises:
            InputError: When one is not there.
        """
        for field in self.fields:
            if field not in known:
                raise InputError(
                    f"`data.template` may name the fields {', '.join(known)}, but {self.text!r} names {field}"
                )

    def fill(self, row: Mapping[str, str]) -> str:
        """The template as text, for a person: pseudo-tokens as <P>, the target as <target>.

        Args:
            row: Values of the fields.
        """
        pieces = []
        for part in self.parts:
            if isinstance(part, Anchor):
                pieces.append(part.text)
            elif isinstance(part, Input):
                pieces.append(part.space + row[part.field])
            elif isinstance(part, PseudoTokens):
                pieces.append("<P>" * part.count)
            else:
                pieces.append("<target>" if isinstance(part, Target) else "<sep>")
        return "".join(pieces)

    def _words(self, text: str, space: str, parts: list[Part]) -> str:
        """Add the words of a text, and give back the white space behind them."""
        stray = re.search(r"[{}]", text)
        if stray is not None:
            raise InputError(
                f"`data.template` must have names in its braces, as {{subject}} or {{prompt:3}}, but {self.text!r} has "
                f"a {stray[0]} that belongs to none"
            )
        words = text.rstrip()
        if not words:
            return space + text
        parts.append(Anchor(space + words))
        return text[len(words) :]

    def _part(self, found: re.Match[str], space: str) -> Part:
        name, count, shorten = found[1], found[2], found[3]
        if name != "prompt" and count is not None:
            raise InputError(f"`data.template` may number pseudo-tokens only, but {self.text!r} has {found[0]}")
        if name in ("prompt", "target", "sep") and shorten:
            raise InputError(f"`data.template` may shorten fields only, but {self.text!r} has {found[0]}")
        if name == "prompt":
            if count is not None and int(count) < 1:
                raise InputError(f"`data.template` must have one pseudo-token or more in {found[0]}")
            return PseudoTokens(int(count or 1))
        if name == "target":
            return Target(space)
        return Separator() if name == "sep" else Input(name, space, bool(shorten))
