"""Where a token stands, and the ways a model can be told: learned, sinusoidal, rotary, ALiBi, or not at all.

A scheme acts in one of three places, and the transformer asks each of them once per forward: at the embeddings
(`embed`), on queries and keys (`rotation`), or on the attention scores (`bias`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from lmmodules.errors import InputError
from lmmodules.models.checks import check_length
from lmmodules.models.visibility import BiasForms


@dataclass(frozen=True)
class Positions:
    """Positions of the tokens of one forward.

    Attributes:
        start: Number of tokens before the first, that is, in the cache.
        length: Number of tokens.
        ids: (B, T) explicit positions; `None` when they are `start`, `start + 1`, ... in every row.
    """

    start: int
    length: int
    ids: Tensor | None = None

    @property
    def end(self) -> int:
        """One more than the largest position of consecutive tokens."""
        return self.start + self.length

    @classmethod
    def locate(
        cls,
        length: int,
        start: int = 0,
        *,
        attention_mask: Tensor | None = None,
        document_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Positions:
        """Count the tokens that stand before each token in its own document.

        Args:
            length: Number of new tokens T.
            start: Number of cached tokens.
            attention_mask: (B, start + T), 1 at tokens: padding on either side is not counted.
            document_ids: (B, T): counting begins anew where the id changes.
            position_ids: (B, T) positions of the caller, taken as they are.
        """
        if position_ids is not None:
            return cls(start, length, position_ids)
        if attention_mask is None and document_ids is None:
            return cls(start, length)
        if attention_mask is not None:
            tokens = attention_mask.long()
            before = tokens.cumsum(1) - tokens  # (B, start + T)
        else:
            assert document_ids is not None
            before = torch.arange(length, device=document_ids.device).expand_as(document_ids)
        if document_ids is not None:
            begins = torch.ones_like(document_ids, dtype=torch.bool)
            begins[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
            before = before - torch.where(begins, before, 0).cummax(1).values
        return cls(start, length, before[:, -length:])


class PositionScheme(nn.Module):
    """How a model knows the order of its tokens; this base class tells it nothing.

    A scheme overrides the hooks it needs. Parameters are initialised by the transformer that holds it.
    """

    max_length: int | None = None
    """Longest sequence that has positions; `None` where there is no limit."""

    def check(self, *, hidden_size: int, num_heads: int, head_dim: int) -> None:
        """Compare the scheme's sizes with those of the model that takes it.

        Raises:
            InputError: When they do not fit.
        """

    def embed(self, embeddings: Tensor, positions: Positions) -> Tensor:
        """Tell the embeddings (B, T, D) where they stand."""
        return embeddings

    def rotation(self, positions: Positions, head_dim: int, like: Tensor) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines by which queries and keys are rotated.

        Args:
            positions: Of the new tokens.
            head_dim: Size K of a head.
            like: A tensor of the wanted device and dtype.

        Returns:
            Two tensors (1 or B, T, 1, 1, K / 2), or `None` for no rotation.
        """
        return None

    def bias(
        self, query_length: int, key_length: int, *, causal: bool, device: torch.device, dtype: torch.dtype
    ) -> Tensor | BiasForms | None:
        """What is added to the attention scores, after their division by the root of the head size.

        The queries are the last `query_length` of the `key_length` tokens. In a causal model the scores of the
        future are already minus infinity in it, so that a fixed bias is made once per length and needs no mask.

        Returns:
            (1, H, query_length, key_length), which may require a gradient; or a bias that has its own ways to the
            kernel; or `None` for no bias.
        """
        return None


class NoPosition(PositionScheme):
    """No position at all: a causal model then knows order only through what each token can see."""


class Learned(PositionScheme):
    """A trained vector per position, added to the token embedding.

    Args:
        max_length: Number of positions.
        hidden_size: Size D of an embedding.
        offset: Rows of the table before that of position 0. RoBERTa's has two, the second being that of padding.

    Source:
        Devlin et al. 2019, BERT; the offset is fairseq's `LearnedPositionalEmbedding`.
    """

    def __init__(self, max_length: int, hidden_size: int, offset: int = 0) -> None:
        super().__init__()
        if max_length is None:
            raise InputError(
                "`max_length` must be given with learned positions; use for example `model.max_length=512`"
            )
        if max_length < 1 or offset < 0:
            raise InputError(
                f"`max_length` must be positive and `offset` not negative, but they are {max_length} and {offset}; "
                "use for example `model.max_length=512`"
            )
        self.max_length = max_length
        self.offset = offset
        self.table = nn.Embedding(max_length + offset, hidden_size)

    def check(self, *, hidden_size: int, num_heads: int, head_dim: int) -> None:
        """The vectors must have the size of the embeddings they are added to.

        Raises:
            InputError: When they do not fit.
        """
        if self.table.embedding_dim != hidden_size:
            raise InputError(
                f"`hidden_size` of the learned positions must be that of the model ({hidden_size}), but is "
                f"{self.table.embedding_dim}; use `model.position.hidden_size={hidden_size}`"
            )

    def embed(self, embeddings: Tensor, positions: Positions) -> Tensor:
        """Add the vector of each position.

        Raises:
            InputError: When a sequence is longer than the table.
        """
        check_length(positions.end, self.max_length)
        if positions.ids is not None:
            return embeddings + nn.functional.embedding(positions.ids + self.offset, self.table.weight)
        # A slice of the table: its gradient is a sum over the batch, and no index is looked up.
        return embeddings + self.table.weight[self.offset + positions.start : self.offset + positions.end]

    def extra_repr(self) -> str:
        """Sizes that the table alone does not show."""
        return f"max_length={self.max_length}, offset={self.offset}"


class Sinusoidal(PositionScheme):
    """Sines and cosines of geometrically spaced wavelengths, added to embeddings scaled by the root of their size.

    Dimension 2i of position p is sin(p / 10000^(2i / D)) and dimension 2i + 1 the cosine of the same angle. The
    scaling belongs to the scheme: without it, vectors of length one drown embeddings of small variance.

    Source:
        Vaswani et al. 2017, sections 3.4 and 3.5.
    """

    def __init__(self) -> None:
        super().__init__()
        self._tables = AngleTables(10000.0)

    def embed(self, embeddings: Tensor, positions: Positions) -> Tensor:
        """Scale the embeddings and add the waves."""
        size = embeddings.shape[-1]
        cosine, sine = self._tables(positions, size + size % 2, embeddings)
        waves = torch.stack((sine, cosine), dim=-1).flatten(-2)[..., :size]  # (1 or B, T, D)
        return embeddings * math.sqrt(size) + waves


class Rotary(PositionScheme):
    """Queries and keys are rotated by an angle proportional to their position, so that scores see only distances.

    Dimension i is paired with dimension i + K / 2, as in the released Llama weights.

    Args:
        theta: Base of the wavelengths; pair i turns by theta^(-2i / K) per position.

    Source:
        Su et al. 2021, "RoFormer". Half-split pairing as in transformers `models/llama/modeling_llama.py`.
    """

    def __init__(self, theta: float = 10000.0) -> None:
        super().__init__()
        if theta <= 0:
            raise InputError(f"`theta` must be positive, but is {theta}; use for example `model.position.theta=10000`")
        self.theta = theta
        self._tables = AngleTables(theta)

    def check(self, *, hidden_size: int, num_heads: int, head_dim: int) -> None:
        """Dimensions are rotated in pairs.

        Raises:
            InputError: When they do not fit.
        """
        if head_dim % 2:
            raise InputError(
                f"`head_dim` must be even with rotary positions, but is {head_dim}; use another `model.num_heads` "
                "or `position=alibi`"
            )

    def rotation(self, positions: Positions, head_dim: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of every position's angles, (1 or B, T, 1, 1, K / 2) each."""
        cosine, sine = self._tables(positions, head_dim, like)
        return cosine[:, :, None, None], sine[:, :, None, None]

    def extra_repr(self) -> str:
        """The base of the wavelengths."""
        return f"theta={self.theta:g}"


class AngleTables:
    """Cosines and sines of positions times frequencies theta^(-2i / D), computed in float32 when first needed.

    They are no buffers: `module.to(torch.bfloat16)` would round the angles of one, and checkpoints would hold it.
    """

    def __init__(self, theta: float) -> None:
        self.theta = theta
        self._tables: dict[tuple[int, torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def __call__(self, positions: Positions, size: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (1 or B, T, size / 2) in the device and dtype of `like`."""
        if positions.ids is not None:
            return self._compute(positions.ids, size, like.dtype)
        key = (size, like.device, like.dtype)
        tables = self._tables.get(key)
        if tables is None or len(tables[0]) < positions.end:
            # Powers of two, so that decoding token by token extends the tables seldom. A tensor made in inference
            # mode could not be used in training afterwards.
            capacity = 1 << (positions.end - 1).bit_length()
            with torch.inference_mode(False), torch.no_grad():
                tables = self._compute(torch.arange(capacity, device=like.device), size, like.dtype)
            if not isinstance(tables[0], FakeTensor):  # of a network that is counted and not computed
                self._tables[key] = tables
        cosine, sine = tables
        return cosine[None, positions.start : positions.end], sine[None, positions.start : positions.end]

    def _compute(self, ids: Tensor, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        exponents = torch.arange(0, size, 2, device=ids.device, dtype=torch.float32) / size
        angles = ids[..., None].float() * (1.0 / self.theta**exponents)
        return angles.cos().to(dtype), angles.sin().to(dtype)
