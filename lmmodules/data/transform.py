"""What a transform is: it turns blocks of corpus tokens into the batch that an objective declares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor
from typing_extensions import Self

from lmmodules.batch import IGNORED
from lmmodules.data.randomness import Int64Array, SampleKeys
from lmmodules.data.tokenizer import Tokenizer

if TYPE_CHECKING:
    from lmmodules.data.packing import Windows
    from lmmodules.data.store import TokenStore

TokenArray = npt.NDArray[Any]
"""Token ids in the type of the store, uint16 or uint32."""


@dataclass(frozen=True)
class Blocks:
    """The tokens of a batch as they stand in the store, before anything is done to them.

    Attributes:
        tokens: (B, L) token ids; short blocks are padded at the right.
        lengths: (B,) tokens that each block really has, or None when every block is full.
        document_ids: (B, L) number of the document within its block, or None when documents may see each other.
        token_type_ids: (B, L) 0 in the first segment of a pair and 1 in the second, or None.
        next_sentence_labels: (B,) 0 where the second segment follows the first in the text and 1 where it is a random
            one, or None.
    """

    tokens: TokenArray
    lengths: Int64Array | None = None
    document_ids: Int64Array | None = None
    token_type_ids: Int64Array | None = None
    next_sentence_labels: Int64Array | None = None

    def attention_mask(self, prefix: int = 0) -> Int64Array | None:
        """Ones at tokens and zeros at padding, (B, prefix + L), or None when nothing is padded.

        Args:
            prefix: Tokens that the transform puts in front of every block.
        """
        if self.lengths is None:
            return None
        positions = np.arange(self.tokens.shape[1] + prefix)
        return (positions < self.lengths[:, None] + prefix).astype(np.int64)


class Transform(ABC):
    """Turns blocks of tokens into a batch.

    Everything random about a sample is drawn from its `SampleKeys`, so that a batch is the same on any rank, with any
    number of workers, and after a resume.

    Attributes:
        batch_type: The `TypedDict` of `lmmodules.batch` that the transform yields.
        takes_pairs: Whether it can make a batch of sentence pairs, that is, passes on `token_type_ids` and
            `next_sentence_labels`.
    """

    batch_type: ClassVar[type]
    takes_pairs: ClassVar[bool] = False

    def open(self) -> Self:
        """Return this transform with what it needs besides a tokenizer at hand, before one is trained.

        Raises:
            InputError: When that is missing or damaged.
        """
        return self

    def bind(self, tokenizer: Tokenizer) -> Self:
        """Return this transform with the token ids it needs looked up.

        Args:
            tokenizer: The tokenizer of the corpus.

        Raises:
            InputError: When the tokenizer lacks a special token that the transform needs.
        """
        return self

    def attach(self, store: TokenStore, windows: Windows) -> Self:
        """Return this transform with the corpus at hand, for one that reads more of it than the blocks it is given.

        Args:
            store: The tokens that blocks are read from.
            windows: Where the blocks lie.
        """
        return self

    @abstractmethod
    def block_length(self, max_length: int) -> int:
        """Tokens to read from the store for a sample of at most `max_length` positions."""

    def stride(self, max_length: int) -> int:
        """Tokens from the start of one block to the start of the next."""
        return self.block_length(max_length)

    @abstractmethod
    def __call__(self, blocks: Blocks, keys: SampleKeys) -> dict[str, Tensor]:
        """Make the batch.

        Args:
            blocks: B blocks of `block_length(max_length)` tokens, or fewer where padding was trimmed.
            keys: Identity of the B samples.
        """

    def ignore(self, batch: dict[str, Tensor], rows: Int64Array) -> None:
        """Take samples out of the loss, in place: they only fill up the last batch of an evaluation.

        Args:
            batch: A batch that this transform made.
            rows: The rows that are not to count.
        """
        for name in ("labels", "next_sentence_labels"):
            if name in batch:
                batch[name][rows] = IGNORED
