"""What a run weighs on each device, and what devices send each other in a step: arithmetic, without any device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from lmmodules.objectives import Objective


@dataclass(frozen=True)
class Layout:
    """How devices share a run.

    Args:
        tensor: Devices that share every matrix, and the batch.
        data: Groups of such devices, each with batches of its own.
        sharded: Whether the groups share parameters, gradients and optimizer states (FSDP2), or each has all (DDP).
        recomputed: Whether blocks run forward a second time in the backward pass.
    """

    tensor: int = 1
    data: int = 1
    sharded: bool = False
    recomputed: bool = False

    def parameters(self, whole: int, divided: int) -> float:
        """Parameters that a device keeps.

        Args:
            whole: Of the network.
            divided: Those of them that tensor parallelism divides.
        """
        kept = whole - divided + divided / self.tensor
        return kept / self.data if self.sharded else kept

    def tensor_bytes(self, layers: int, activation_bytes: int) -> float:
        """Bytes that a device sends over the tensor axis in a batch, by rings.

        Two all-reduces forwards and two backwards for each layer, two more where it runs forward again, one behind the
        embeddings and one before the head. Of the loss go a few numbers per token, which are left out.

        Args:
            layers: Of the network.
            activation_bytes: Of the hidden states of the batch, B T D numbers.
        """
        reductions = layers * (6 if self.recomputed else 4) + 2
        return reductions * _ring(self.tensor) * activation_bytes

    def data_bytes(self, gradient_bytes: float, batches: int, gathered_bytes: float | None = None) -> float:
        """Bytes that a device sends over the data axis in a step, by rings.

        Args:
            gradient_bytes: Of the gradients of one group's device, before sharding.
            batches: Accumulated in the step; sharded parameters are gathered twice and gradients summed for each.
            gathered_bytes: Of its parameters as they are gathered; `None` for as many.
        """
        if not self.sharded:
            return _ring(self.data) * gradient_bytes  # once
        gathered_bytes = gradient_bytes if gathered_bytes is None else gathered_bytes
        return batches * _ring(self.data) / 2 * (2 * gathered_bytes + gradient_bytes)


def _ring(devices: int) -> float:
    """What an all-reduce sends per device, over what it reduces; a gather or a scatter sends half of it."""
    return 2 * (devices - 1) / devices


def divided_parameters(objective: Objective, ranks: int) -> int:
    """How many of an objective's parameters tensor parallelism divides.

    Args:
        objective: On any device, also the one without memory.
        ranks: Of the tensor axis.
    """
    from lmmodules.models.attention import Attention
    from lmmodules.models.heads import LanguageModelHead
    from lmmodules.models.mlp import MLP
    from lmmodules.models.transformer import Transformer
    from lmmodules.parallel.tensor_parallel import kept_whole

    undivided = kept_whole(objective, ranks)
    found: dict[int, int] = {}

    def note(*parameters: Tensor | None) -> None:
        found.update({id(parameter): parameter.numel() for parameter in parameters if parameter is not None})

    for part in objective.modules():
        if isinstance(part, (Attention, MLP)) and part in undivided:
            continue
        if isinstance(part, Attention):
            note(part.query_key_value.weight, part.query_key_value.bias, part.output.weight)
        elif isinstance(part, MLP):
            note(part.up.weight, part.up.bias, part.down.weight)
            if part.gate is not None:
                note(part.gate.weight, part.gate.bias)
        elif isinstance(part, LanguageModelHead):
            note(part.weight, part.bias)
        elif isinstance(part, Transformer):
            note(part.token_embedding.weight)
    return sum(found.values())
