"""Attention with linear biases, in the form that a processor computes right and fastest.

    causal, a whole sequence         the row of key biases and the kernel's own causal flag: no matrix at all
      where denormals are computed   in training, the clipped matrix (1, H, T, T): they would double the time
      where the kernel refuses both  folded, and the flag
    causal, one token after others   the row, which is exact for the last token
    causal, several after others     folded, with the boolean mask (1, 1, T, keys)
    causal, packed documents         folded, with the boolean mask (B, 1, T, T)
    bidirectional                    the distance form (1, H, T, T), of which documents and padding take corners

None of them makes a tensor (B, H, T, T). What a kernel does with a bias and its causal flag together is documented
nowhere, so it is tried, once for each kind of tensor. The forms themselves are in `alibi_forms`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

from lmmodules.models.alibi_forms import FOLDED, NEGLIGIBLE, LinearBiases
from lmmodules.models.floating_point import denormals_are_flushed
from lmmodules.models.visibility import Visibility

CLIPPED_ELEMENTS = 2**24
"""Largest clipped matrix, H T^2. Beyond, its memory is worth more than the time it saves."""
NOTICED = 30.0
"""Nats below which a softmax in float32 loses a key: e^-30 is a millionth of its precision."""


@dataclass(frozen=True)
class CausalBias:
    """The bias of one forward of a causal model.

    Args:
        biases: Of the heads that are computed.
        query_length: Number of new tokens T.
        key_length: Number of cached and new tokens.
        device: Where attention runs.
        dtype: What it runs in: that of autocast, where it is on.
    """

    biases: LinearBiases
    query_length: int
    key_length: int
    device: torch.device
    dtype: torch.dtype

    def visibility(self, attention_mask: Tensor | None, document_ids: Tensor | None) -> Visibility:
        """Choose the form."""
        if document_ids is None:
            if self.query_length == 1:
                return Visibility(self.row(self.dtype, attention_mask))
            if self.query_length == self.key_length and kernel_takes_bias_with_flag(self.device.type, self.dtype):
                row = self.row(torch.promote_types(self.dtype, torch.float32), attention_mask)
                return WholeSequence(row, is_causal=True, bias=self, attention_mask=attention_mask)
        return self.folded(attention_mask, document_ids)

    def row(self, dtype: torch.dtype, attention_mask: Tensor | None) -> Tensor:
        """The biases of the keys, (1, H, 1, keys), or (B, H, 1, keys) with padding."""
        row = self.biases.row(self.key_length, self.device, dtype)
        if attention_mask is None:
            return row
        # Less than any score and yet a number, so that padding which sees nothing else has a softmax.
        return torch.where(attention_mask.bool()[:, None, None], row, torch.finfo(dtype).min / 4)

    def folded(self, attention_mask: Tensor | None, document_ids: Tensor | None) -> FoldedBias:
        """The bias in the scores, and who sees whom as without a bias."""
        unbiased = Visibility.decide(
            self.query_length,
            self.key_length,
            causal=True,
            device=self.device,
            attention_mask=attention_mask,
            document_ids=document_ids,
        )
        return FoldedBias(unbiased.mask, unbiased.is_causal, bias=self)


@dataclass(frozen=True, kw_only=True)
class FoldedBias(Visibility):
    """The bias as further dimensions of queries and keys."""

    bias: CausalBias

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, *, dropout: float = 0.0, scale: float | None = None
    ) -> Tensor:
        """As without a bias, over K + 8 dimensions."""
        biases, dtype, head_dim = self.bias.biases, self.bias.dtype, query.shape[-1]
        query_columns = biases.folded_query(head_dim, query.device, dtype).expand(*query.shape[:-1], -1)
        key_columns = biases.folded_key(key.shape[2], key.device, dtype).expand(*key.shape[:-1], -1)
        gathered = super().attend(
            torch.cat([query.to(dtype), query_columns], dim=-1),
            torch.cat([key.to(dtype), key_columns], dim=-1),
            F.pad(value.to(dtype), (0, FOLDED)),  # kernels want values of the size of keys
            dropout=dropout,
            scale=1.0 / math.sqrt(head_dim) if scale is None else scale,
        )
        return gathered[..., :head_dim]


@dataclass(frozen=True, kw_only=True)
class WholeSequence(Visibility):
    """A causal sequence from its first token, without documents: what training and scoring mostly consist of."""

    bias: CausalBias
    attention_mask: Tensor | None = None

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, *, dropout: float = 0.0, scale: float | None = None
    ) -> Tensor:
        """One call with the causal flag and the row, or in training the clipped matrix if that is cheaper."""
        if dropout:  # for which kernels have no way that takes a bias and the flag
            return self.bias.folded(self.attention_mask, None).attend(query, key, value, dropout=dropout, scale=scale)
        mask = self.mask
        if query.requires_grad and self._denormals_cost() and _scores_are_near(query, key, scale):
            mask = self.bias.biases.clipped(self.bias.key_length, self.bias.device, self.bias.dtype)
        # Autocast would round the bias, of which a softmax over a long sequence needs every digit.
        with torch.autocast(query.device.type, enabled=False):
            parts = [part.to(self.bias.dtype) for part in (query, key, value)]
            return Visibility(mask, self.is_causal).attend(*parts, scale=scale)

    def _denormals_cost(self) -> bool:
        bias = self.bias
        return (
            bias.dtype == torch.float32
            and bias.device.type == "cpu"
            and self.attention_mask is None
            and bias.biases.steepest * bias.key_length > NEGLIGIBLE
            and bias.biases.num_heads * bias.key_length**2 <= CLIPPED_ELEMENTS
            and not denormals_are_flushed()
        )


def _scores_are_near(query: Tensor, key: Tensor, scale: float | None) -> bool:
    """Whether no score can lift a key that the clipped form hides to where a softmax would notice it."""
    if torch.compiler.is_compiling():  # which cannot look
        return False
    if isinstance(query, FakeTensor):  # which is counted and not computed
        return True
    with torch.no_grad():
        largest = query.norm(dim=-1).amax() * key.norm(dim=-1).amax()  # twice of it lie between any two scores
        factor = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
        return bool(2.0 * factor * largest < NEGLIGIBLE - NOTICED)


@dataclass(frozen=True)
class BidirectionalBias:
    """The bias of one forward of a bidirectional model.

    Args:
        biases: Of the heads that are computed.
        length: Number of tokens T.
        device: Where attention runs.
        dtype: What it runs in: that of autocast, where it is on.
    """

    biases: LinearBiases
    length: int
    device: torch.device
    dtype: torch.dtype

    def visibility(self, attention_mask: Tensor | None, document_ids: Tensor | None) -> Visibility:
        """The whole matrix, or its corners."""
        matrix = self.biases.distance(self.length, self.length, self.device, self.dtype)
        if attention_mask is None and document_ids is None:
            return Visibility(matrix)
        return Corners.cut(matrix, attention_mask, document_ids)


@dataclass(frozen=True, kw_only=True)
class Corners(Visibility):
    """Every document by itself, with the corner of the one matrix (1, H, T, T) that has its size.

    Padding is a document of its own, which nothing else sees.

    Attributes:
        groups: Rows of the batch, and the places in them that see each other: a slice, or indices (n,) where they
            are not neighbours.
        order: (B T,) where each token's result stands among those of the groups, one after the other.
    """

    groups: tuple[tuple[Tensor, slice | Tensor], ...]
    order: Tensor

    @classmethod
    def cut(cls, matrix: Tensor, attention_mask: Tensor | None, document_ids: Tensor | None) -> Corners:
        """Find who sees whom.

        Args:
            matrix: (1, H, T, T), added to the scores.
            attention_mask: (B, T), 1 at tokens and 0 at padding.
            document_ids: (B, T): tokens see only those of equal id.
        """
        given = attention_mask if document_ids is None else document_ids
        assert given is not None
        kinds = torch.zeros(given.shape, dtype=torch.long)
        if document_ids is not None:
            kinds += 2 * document_ids.cpu().long()
        if attention_mask is not None:
            kinds += attention_mask.cpu().bool()
        length = kinds.shape[1]
        neighbours: dict[tuple[int, int], list[int]] = {}
        scattered: list[tuple[int, Tensor]] = []
        for row, kind in enumerate(kinds):
            values, sizes = torch.unique_consecutive(kind, return_counts=True)
            if len(values.unique()) == len(values):
                ends = sizes.cumsum(0).tolist()
                for start, end in zip([0, *ends], ends, strict=False):
                    neighbours.setdefault((start, end), []).append(row)
            else:
                scattered += [(row, (kind == value).nonzero()[:, 0]) for value in values.unique()]
        found: list[tuple[Tensor, slice | Tensor]] = []
        found += [(torch.tensor(rows), slice(start, end)) for (start, end), rows in neighbours.items()]
        found += [(torch.tensor([row]), places) for row, places in scattered]
        every = torch.arange(length)
        flat = torch.cat([(rows[:, None] * length + every[places]).flatten() for rows, places in found])

        def there(part: Tensor) -> Tensor:
            return part.to(matrix.device)

        groups = [(there(rows), there(places) if isinstance(places, Tensor) else places) for rows, places in found]
        return cls(matrix, groups=tuple(groups), order=there(flat.argsort()))

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, *, dropout: float = 0.0, scale: float | None = None
    ) -> Tensor:
        """One call for each group."""
        assert self.mask is not None
        gathered = []
        for rows, places in self.groups:
            corner = Visibility(self.mask[:, :, places][..., places])
            parts = [part[rows][:, :, places] for part in (query, key, value)]
            gathered.append(corner.attend(*parts, dropout=dropout, scale=scale).transpose(0, 1).flatten(1, 2))
        joined = torch.cat(gathered, dim=1)[:, self.order]  # (H, B * T, K)
        return joined.view(-1, query.shape[0], query.shape[2], query.shape[3]).transpose(0, 1)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def kernel_takes_bias_with_flag(device_type: str, dtype: torch.dtype) -> bool:
    """Whether the kernel is right when given a bias and its causal flag together, forwards and backwards.

    Args:
        device_type: Of a device that is there, such as `cpu`.
        dtype: Of queries, keys and values.
    """
    # With real numbers, also while a network of fake tensors is counted.
    with _disable_current_modes():
        return all(_try_kernel(device_type, dtype, kv_heads, _allowed_kernels()) for kv_heads in (4, 2))


def _allowed_kernels() -> tuple[bool, ...]:
    """Which kernels may be taken at present: `torch.nn.attention.sdpa_kernel` changes it, on processors too."""
    backends: Any = torch.backends.cuda
    return backends.flash_sdp_enabled(), backends.mem_efficient_sdp_enabled(), backends.math_sdp_enabled()


@functools.cache
def _try_kernel(device_type: str, dtype: torch.dtype, kv_heads: int, allowed: tuple[bool, ...]) -> bool:
    """Four query heads over as many keys, or fewer, against the definition, with the kernels that are allowed."""
    if device_type == "meta":
        return False
    device, length, head_dim = torch.device(device_type), 40, 8
    biases = LinearBiases([0.5, 0.125, 0.03125, 0.0078125])
    row = biases.row(length, device, torch.promote_types(dtype, torch.float32))
    matrix = biases.distance(length, length, device, torch.float32)
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device_type, enabled=False):
        # No random numbers: a run must not depend on whether this was called.
        waves = (0.7 * torch.arange(3 * 4 * length * head_dim, device=device)).sin().view(3, 1, 4, length, head_dim)
        parts = [waves[0], waves[1, :, :kv_heads], waves[2, :, :kv_heads]]
        given = [part.to(dtype).detach().requires_grad_() for part in parts]
        exact = [part.detach().float().requires_grad_() for part in given]
        try:
            answer = Visibility(row, is_causal=True).attend(*given)
            gradients = torch.autograd.grad(answer.square().sum(), given)
        except (RuntimeError, ValueError):
            return False
        query, key, value = exact[0], *(part.repeat_interleave(4 // kv_heads, 1) for part in exact[1:])
        expected = (query @ key.transpose(2, 3) / math.sqrt(head_dim) + matrix).softmax(-1) @ value
        wanted = torch.autograd.grad(expected.square().sum(), exact)
    tolerance = 1e-4 if torch.finfo(dtype).eps < 1e-6 else 0.1
    pairs = zip((answer, *gradients), (expected, *wanted), strict=True)
    return all((ours.float() - theirs).abs().max().item() < tolerance for ours, theirs in pairs)
