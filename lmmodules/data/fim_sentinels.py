"""The sentinels of fill-in-the-middle, and the two orders in which they arrange the pieces of a document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from typing_extensions import Self

from lmmodules.batch import Section
from lmmodules.data.randomness import Int64Array
from lmmodules.data.tokenizer import Tokenizer
from lmmodules.errors import InputError

Order = Literal["psm", "spm"]
"""Prefix, suffix, middle; or suffix, prefix, middle."""


def check_order(order: str) -> None:
    """Refuse an order that is none of the two.

    Raises:
        InputError: Naming them.
    """
    if order not in get_args(Order):
        raise InputError(f"`order` must be one of {', '.join(get_args(Order))}, but is {order!r}; use `order=spm`")


class Pieces(NamedTuple):
    """The tokens of a document that was cut at two places."""

    prefix: Int64Array
    middle: Int64Array
    suffix: Int64Array


@dataclass(frozen=True)
class Sentinels:
    """Token ids that mark the pieces of a document, and the end token that separates documents.

    The two orders, with the end token behind both:

        psm   <PRE> prefix <SUF> suffix <MID> middle
        spm   <PRE> <SUF> suffix <MID> prefix middle

    The second is the paper's variant 2. Its sentinels stand so that an empty prefix makes both orders the same, which
    lets a model carry over from one to the other what it learns.

    Attributes:
        prefix: Id of <PRE>.
        suffix: Id of <SUF>.
        middle: Id of <MID>.
        end: Id of the token that ends a document.

    Source:
        Bavarian et al. 2022, section 3 and appendix D.
    """

    prefix: int
    suffix: int
    middle: int
    end: int

    @classmethod
    def of(
        cls,
        tokenizer: Tokenizer,
        prefix: str = "<fim_prefix>",
        suffix: str = "<fim_suffix>",
        middle: str = "<fim_middle>",
    ) -> Self:
        """Look the sentinels up; the end token is the tokenizer's own end of a document.

        Args:
            tokenizer: Must have them as special tokens, so that no text is ever encoded to one.
            prefix: Name of <PRE>.
            suffix: Name of <SUF>.
            middle: Name of <MID>.

        Raises:
            InputError: When the tokenizer lacks one of them, or two are the same.
        """
        special = set(tokenizer.special_ids.tolist())
        ids = {name: tokenizer.backend.token_to_id(name) for name in (prefix, suffix, middle)}
        found = {name: token_id for name, token_id in ids.items() if token_id is not None and token_id in special}
        missing = ids.keys() - found.keys()
        if missing:
            raise InputError(
                f"fill-in-the-middle needs a tokenizer with its sentinels as special tokens, but this one has no "
                f"{', '.join(f'`{name}`' for name in sorted(missing))}; use `tokenizer=fim`, which is trained with "
                "them, or name those it has by `transform.prefix_token`, `transform.suffix_token` and "
                "`transform.middle_token`"
            )
        if len(ids) < 3:
            raise InputError(
                f"`transform.prefix_token`, `transform.suffix_token` and `transform.middle_token` must differ, but are "
                f"`{prefix}`, `{suffix}` and `{middle}`"
            )
        return cls(found[prefix], found[suffix], found[middle], tokenizer.eos_id)

    def arrange(self, pieces: Pieces, order: Order) -> list[tuple[Section, Int64Array]]:
        """Put the middle behind the rest, each piece behind its sentinel.

        Args:
            pieces: Of one document, without its end token.
            order: One of the two.

        Returns:
            The parts in their new order, each with its section.

        Raises:
            InputError: When it is neither of the two.
        """
        check_order(order)
        if order == "spm":
            return [
                (Section.SENTINEL, np.array([self.prefix, self.suffix], dtype=np.int64)),
                (Section.SUFFIX, pieces.suffix),
                (Section.SENTINEL, np.array([self.middle], dtype=np.int64)),
                (Section.PREFIX, pieces.prefix),
                (Section.MIDDLE, pieces.middle),
            ]
        return [
            (Section.SENTINEL, np.array([self.prefix], dtype=np.int64)),
            (Section.PREFIX, pieces.prefix),
            (Section.SENTINEL, np.array([self.suffix], dtype=np.int64)),
            (Section.SUFFIX, pieces.suffix),
            (Section.SENTINEL, np.array([self.middle], dtype=np.int64)),
            (Section.MIDDLE, pieces.middle),
        ]

    def prompt(self, prefix: Sequence[int], suffix: Sequence[int], order: Order) -> list[int]:
        """What a model is given to write the middle: an arranged document without one, behind an end token.

        Args:
            prefix: Tokens before the gap.
            suffix: Tokens behind it.
            order: One of the two.

        Source:
            Bavarian et al. 2022, section 3; the end token in front is that of its footnote 3.
        """
        pieces = Pieces(*(np.array(ids, dtype=np.int64) for ids in (prefix, (), suffix)))
        return [self.end, *np.concatenate([tokens for _, tokens in self.arrange(pieces, order)]).tolist()]

    def restore(self, tokens: Int64Array) -> Int64Array:
        """Bring documents back into the order in which they are read, without sentinels.

        Args:
            tokens: (n,) documents in any order, each but the last behind an end token. One that was cut off lacks
                what was cut off.

        Returns:
            (m,) the same documents, end tokens included.
        """
        ends = np.flatnonzero(tokens == self.end) + 1
        return np.concatenate([self._restore_one(document) for document in np.split(tokens, ends)])

    def _restore_one(self, document: Int64Array) -> Int64Array:
        if not len(document) or document[0] != self.prefix:
            return document
        document, end = (document[:-1], document[-1:]) if document[-1] == self.end else (document, document[:0])
        suffix = _find(document, self.suffix)
        middle = _find(document, self.middle)
        # Behind <MID> stands the middle, in the second order prefix and middle; between <PRE> and <SUF> then nothing.
        return np.concatenate([document[1:suffix], document[middle + 1 :], document[suffix + 1 : middle], end])


def _find(tokens: Int64Array, token: int) -> int:
    found = np.flatnonzero(tokens == token)
    return int(found[0]) if len(found) else len(tokens)
