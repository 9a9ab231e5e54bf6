"""Attention with ALiBi, forward and backward, against the same attention that knows of no positions.

The kernel that both end in is told of the future by its causal flag. ALiBi adds what the project's own dispatch chooses
on this processor; a script would hand over a matrix (1, H, T, T) of distances, which is measured as well. Eight
sequences of eight heads of 64, in float32, with denormals flushed as the commands do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from benchmarks.workload import OURS, Agreement, Candidate, Case, Comparison, Grid, Step, Workload
from lmmodules.models import Alibi
from lmmodules.models.floating_point import flush_denormals
from lmmodules.models.visibility import Visibility

PLAIN = "causal attention without positions"
MATRIX = "a matrix of distances"
TOLERANCE = 2e-4


@dataclass(frozen=True)
class AlibiAttention(Workload):
    """See the module."""

    title: ClassVar[str] = "Attention with ALiBi"
    grid: ClassVar[Grid] = {"length": (256, 512, 1024)}

    batch_size: int = 8
    num_heads: int = 8
    head_dim: int = 64

    def cases(self, grid: Grid) -> Iterator[Case]:
        """One for each length."""
        for length in grid["length"]:
            plain, biased, matrix = (
                partial(self.step, length, form) for form in (self.without_positions, self.biased, self.distances)
            )
            candidates = (
                Candidate(OURS, biased, process="own"),
                Candidate(PLAIN, plain, process="own"),
                Candidate(MATRIX, matrix, agreement=partial(self.agreement, length), process="own"),
            )
            comparisons = (Comparison(PLAIN, goal=0.95), Comparison(MATRIX))
            yield Case(f"length {length:,}", candidates, comparisons, self.batch_size * length)

    def inputs(self, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, H, T, K), which ask for gradients, and the gradient of what comes out."""
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch_size, self.num_heads, length, self.head_dim)
        query, key, value, gradient = (torch.randn(shape, generator=generator) for _ in range(4))
        return query.requires_grad_(), key.requires_grad_(), value.requires_grad_(), gradient

    def without_positions(self, length: int) -> Visibility:
        """The causal flag."""
        return Visibility(is_causal=True)

    def biased(self, length: int) -> Visibility:
        """What a forward of the project's transformer decides."""
        device = torch.device("cpu")
        bias = Alibi(self.num_heads).bias(length, length, causal=True, device=device, dtype=torch.float32)
        return Visibility.decide(length, length, causal=True, device=device, bias=bias)

    def distances(self, length: int) -> Visibility:
        """Minus slope times distance, and minus infinity in the future, (1, H, T, T), made once."""
        place = torch.arange(length)
        distance = place[:, None] - place
        bias = -torch.tensor(Alibi(self.num_heads).slopes)[:, None, None] * distance
        return Visibility(bias.masked_fill(distance < 0, float("-inf"))[None])

    def step(self, length: int, form: Callable[[int], Visibility]) -> Step:
        """Forward and backward once."""
        flush_denormals()
        query, key, value, gradient = self.inputs(length)
        visibility = form(length)

        def step() -> None:
            torch.autograd.grad(visibility.attend(query, key, value), (query, key, value), gradient)

        return step

    def agreement(self, length: int) -> list[Agreement]:
        """What comes out, and the gradients, of ours and of the matrix."""
        query, key, value, gradient = self.inputs(length)
        outputs, gradients = [], []
        for form in (self.biased, self.distances):
            visibility = form(length)
            with torch.no_grad():  # in the form with the kernel's flag, whether or not denormals are flushed here
                outputs.append(visibility.attend(query, key, value))
            gradients.append(torch.autograd.grad(visibility.attend(query, key, value), (query, key, value), gradient))
        return [
            Agreement("largest element", _difference(*outputs), TOLERANCE),
            Agreement("largest gradient", max(map(_difference, *gradients)), TOLERANCE),
        ]


def _difference(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()
