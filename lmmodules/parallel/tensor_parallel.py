"""Tensor parallelism: every layer's matrices spread over ranks, by a plan that is applied from outside.

The modules of `lmmodules.models` are written for one device and stay as they are. The plan walks over them by type:
it turns their matrices into parts and gives their forward pass the two operators of the paper, so that every objective
follows that is built of these modules. Attention is divided by whole heads, which lie together in the fused projection;
the MLP by its inner size; embedding, output matrix and its bias by the vocabulary. All else, norms, residuals,
positions and small heads, is computed alike on every rank, and so are the layers of a network beside the backbone that
are too narrow to be divided, such as those of a generator of one head.

Source:
    Shoeybi et al. 2019, "Megatron-LM: Training Multi-Billion Parameter Language Models Using Model Parallelism",
    section 3. Sequence parallelism: Korthikanti et al. 2022, section 4.2.2.

Differences:
    With sequence parallelism the sequence is divided between the first and the last layer only: embeddings, the last
    layer and the head see all of it, because objectives choose rows of the whole batch there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from lmmodules.errors import InputError
from lmmodules.models.alibi import Alibi
from lmmodules.models.attention import Attention
from lmmodules.models.heads import LanguageModelHead
from lmmodules.models.mlp import MLP
from lmmodules.models.relative_positions import RelativeBias
from lmmodules.models.transformer import Transformer
from lmmodules.parallel.conjugates import (
    copy_to_ranks,
    gather_parts,
    gather_sequence,
    scatter_sum,
    sum_over_ranks,
    take_part,
)
from lmmodules.parallel.mesh import local_tensor

NO_TRANSFORMER = (
    "`strategy=tensor_parallel` needs a `Transformer`, whose matrices it knows how to divide, but the model has none; "
    "use `strategy=fsdp`"
)


@dataclass(frozen=True)
class Region:
    """The ranks that share a module, and what of an activation each of them has between matrices.

    Args:
        mesh: The tensor axis.
        divided: Whether each rank has a part of the sequence (sequence parallelism), or all of it.
    """

    mesh: DeviceMesh
    divided: bool = False

    @property
    def group(self) -> dist.ProcessGroup:
        """The ranks."""
        return self.mesh.get_group()

    @property
    def rank(self) -> int:
        """This one's number among them."""
        return self.mesh.get_local_rank()

    def enter(self, hidden: Tensor) -> Tensor:
        """In front of matrices of which each rank has some columns: f."""
        return gather_sequence(hidden, self.group) if self.divided else copy_to_ranks(hidden, self.group)

    def leave(self, summand: Tensor) -> Tensor:
        """Behind a matrix of which each rank has some rows: g."""
        return scatter_sum(summand, self.group) if self.divided else sum_over_ranks(summand, self.group)

    def shared(self, parameter: Tensor) -> Tensor:
        """A parameter that is equal on all ranks; if each applies it to a part only, its gradient is their sum."""
        return copy_to_ranks(parameter, self.group) if self.divided else parameter

    @contextmanager
    def own_stream(self, device: torch.device, active: bool) -> Iterator[None]:
        """Draw random numbers that differ between the ranks, and leave the common stream where it is on all of them.

        The seed comes from the common stream, so that an activation that is computed again, or a resumed run, draws
        the same numbers.
        """
        if not active:
            yield
            return
        seed = int(torch.randint(2**62, (), dtype=torch.int64))
        generator = torch.default_generator
        if device.type == "cuda":
            generator = torch.cuda.default_generators[
                torch.cuda.current_device() if device.index is None else device.index
            ]
        state = generator.get_state()
        generator.manual_seed(seed + self.rank)
        try:
            yield
        finally:
            generator.set_state(state)


class ColumnParallelLinear(nn.Linear):
    """Some of the outputs of a matrix, for inputs that are whole on every rank."""

    def forward(self, input: Tensor) -> Tensor:
        """Inputs (..., D) to this rank's outputs."""
        return F.linear(input, local_tensor(self.weight), None if self.bias is None else local_tensor(self.bias))


class RowParallelLinear(nn.Linear):
    """All outputs of a matrix, of whose inputs each rank has some. The bias is added once, to the sum."""

    region: Region

    def forward(self, input: Tensor) -> Tensor:
        """This rank's inputs to outputs (..., D), whole or, with sequence parallelism, of a part of the sequence."""
        total = self.region.leave(F.linear(input, local_tensor(self.weight)))
        return total if self.bias is None else total + self.region.shared(self.bias).to(total.dtype)


class VocabularyParallelEmbedding(nn.Embedding):
    """Embeddings of which each rank has those of some tokens."""

    region: Region

    def forward(self, input: Tensor) -> Tensor:
        """Tokens (...) to embeddings (..., D)."""
        weight = local_tensor(self.weight)
        start = self.region.rank * len(weight)
        foreign = (input < start) | (input >= start + len(weight))
        padding = None
        if self.padding_idx is not None and start <= self.padding_idx < start + len(weight):
            padding = self.padding_idx - start
        # Foreign tokens look up the first row, or the padding's: what they find is thrown away, and so is its gradient.
        found = F.embedding((input - start).masked_fill(foreign, 0), weight, padding_idx=padding)
        return sum_over_ranks(found.masked_fill(foreign.unsqueeze(-1), 0.0), self.region.group)


class HeadParallelAttention(Attention):
    """Attention of some of the heads. Dropout of their weights differs from rank to rank."""

    region: Region

    def forward(self, hidden: Tensor, *arguments: Any) -> Tensor:
        """See `Attention`."""
        hidden = self.region.enter(hidden)
        with self.region.own_stream(hidden.device, self.training and self.dropout > 0):
            return super().forward(hidden, *arguments)


class ParallelMLP(MLP):
    """An MLP of some of the inner size."""

    region: Region

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., D) to (..., D)."""
        return super().forward(self.region.enter(hidden))


class LocalHeadsTable(nn.Embedding):
    """A table with a column per head, whole on every rank, that is read for some of the heads."""

    region: Region

    def forward(self, input: Tensor) -> Tensor:
        """Rows (...) to the columns (..., H / ranks) of this rank's heads."""
        columns = self.embedding_dim // self.region.mesh.size()
        start = self.region.rank * columns
        whole = copy_to_ranks(self.weight, self.region.group)
        return F.embedding(input, whole[:, start : start + columns])


class SequenceParallelLayerNorm(nn.LayerNorm):
    """LayerNorm over a part of the sequence."""

    region: Region

    def forward(self, input: Tensor) -> Tensor:
        """Hidden states (B, T / ranks, D)."""
        bias = None if self.bias is None else self.region.shared(self.bias)
        return F.layer_norm(input, self.normalized_shape, self.region.shared(self.weight), bias, self.eps)


class SequenceParallelRMSNorm(nn.RMSNorm):
    """RMSNorm over a part of the sequence."""

    region: Region

    def forward(self, x: Tensor) -> Tensor:
        """Hidden states (B, T / ranks, D)."""
        assert self.weight is not None
        return F.rms_norm(x, tuple(self.normalized_shape), self.region.shared(self.weight), self.eps)


class SequenceParallelDropout(nn.Dropout):
    """Dropout of a part of the sequence, which differs from rank to rank."""

    region: Region

    def forward(self, input: Tensor) -> Tensor:
        """Hidden states (B, T / ranks, D)."""
        with self.region.own_stream(input.device, self.training and self.p > 0):
            return super().forward(input)


def parallelize(module: nn.Module, mesh: DeviceMesh, *, sequence_parallel: bool = False) -> None:
    """Spread a network over the ranks of a mesh; every rank must hold the same whole of it.

    Args:
        module: An objective, or anything built of the modules of `lmmodules.models`.
        mesh: The tensor axis.
        sequence_parallel: Whether norms, dropout and residuals between the first and the last layer work on a part of
            the sequence on each rank.

    Raises:
        InputError: When there is no `Transformer` in it, or heads or inner size of the backbone, or the vocabulary,
            cannot be divided.
    """
    modules = list(module.modules())
    transformers = [part for part in modules if isinstance(part, Transformer)]
    if not transformers:
        raise InputError(NO_TRANSFORMER)
    ranks = mesh.size()
    undivided = kept_whole(module, ranks)
    for transformer in transformers:
        check_divides({"vocab_size": transformer.vocab_size}, ranks)
        if transformer not in undivided:
            check_divides(_sizes(transformer), ranks)
    whole = Region(mesh)
    for part in modules:
        if part in undivided:
            continue
        if isinstance(part, Attention):
            _become(part, HeadParallelAttention, whole)
            _columns(part.query_key_value, mesh)
            _rows(part.output, whole)
        elif isinstance(part, MLP):
            _become(part, ParallelMLP, whole)
            for matrix in (part.up, part.gate):
                if matrix is not None:
                    _columns(matrix, mesh)
            _rows(part.down, whole)
        elif isinstance(part, LanguageModelHead):
            _divide(part, "weight", mesh, 0)
            _divide(part, "bias", mesh, 0)
        elif isinstance(part, Alibi):
            heads = part.num_heads // ranks
            part.keep_heads(whole.rank * heads, (whole.rank + 1) * heads)
        elif isinstance(part, RelativeBias):
            _become(part.table, LocalHeadsTable, whole)
    for transformer in transformers:
        if not isinstance(transformer.token_embedding, VocabularyParallelEmbedding):
            _become(transformer.token_embedding, VocabularyParallelEmbedding, whole)
            _divide(transformer.token_embedding, "weight", mesh, 0)
        if sequence_parallel and transformer not in undivided:
            _divide_sequence(transformer, mesh)


def kept_whole(module: nn.Module, ranks: int) -> set[nn.Module]:
    """The networks beside the backbone that are too narrow to be divided, with all that is in them.

    Args:
        module: An objective, or anything built of the modules of `lmmodules.models`.
        ranks: Of the tensor axis.
    """
    backbone = getattr(module, "backbone", module)
    return {
        part
        for network in module.modules()
        if isinstance(network, Transformer) and network is not backbone
        if any(size % ranks for size in _sizes(network).values())
        for part in network.modules()
    }


def check_divides(sizes: Mapping[str, int], ranks: int) -> None:
    """Refuse sizes of a network of which ranks cannot have equal parts.

    Args:
        sizes: By their names on the command line.
        ranks: Of the tensor axis.

    Raises:
        InputError: Naming the first of them.
    """
    for name, size in sizes.items():
        if size % ranks:
            mended = -(-size // ranks) * ranks
            raise InputError(
                f"`{name}` must be a multiple of `strategy.tensor_parallel_size` ({ranks}), but is {size}; use "
                f"`model.{name}={mended}`"
            )


def _sizes(transformer: Transformer) -> dict[str, int]:
    """Of its blocks."""
    return {name: int(getattr(transformer, name)) for name in ("num_heads", "num_kv_heads", "intermediate_size")}


def _become(module: nn.Module, kind: type[nn.Module], region: Region) -> None:
    """Give a module another forward pass; its parameters, their names and what it is an instance of stay."""
    module.__class__ = kind
    module.region = region  # type: ignore[assignment]


def _columns(matrix: nn.Linear, mesh: DeviceMesh) -> None:
    matrix.__class__ = ColumnParallelLinear
    _divide(matrix, "weight", mesh, 0)
    _divide(matrix, "bias", mesh, 0)


def _rows(matrix: nn.Linear, region: Region) -> None:
    _become(matrix, RowParallelLinear, region)
    _divide(matrix, "weight", region.mesh, 1)


def _divide(module: nn.Module, name: str, mesh: DeviceMesh, dim: int) -> None:
    """Keep this rank's part of a parameter, as a tensor that knows the whole."""
    parameter = getattr(module, name)
    if parameter is None or isinstance(parameter, DTensor):
        return
    part = parameter.detach().chunk(mesh.size(), dim)[mesh.get_local_rank()].clone()
    whole = DTensor.from_local(part, mesh, [Shard(dim)], run_check=False)
    module.register_parameter(name, nn.Parameter(whole, requires_grad=parameter.requires_grad))


def _divide_sequence(transformer: Transformer, mesh: DeviceMesh) -> None:
    """Let all layers but the last work on a part of the sequence, where they do not mix tokens."""
    blocks = list(transformer.blocks)
    if len(blocks) < 2:
        return
    region = Region(mesh, divided=True)
    kinds: dict[type[nn.Module], type[nn.Module]] = {
        nn.LayerNorm: SequenceParallelLayerNorm,
        nn.RMSNorm: SequenceParallelRMSNorm,
        nn.Dropout: SequenceParallelDropout,
    }
    for block in blocks[:-1]:
        for part in block.modules():
            if type(part) in kinds:
                _become(part, kinds[type(part)], region)
            elif isinstance(part, (HeadParallelAttention, ParallelMLP, RowParallelLinear)):
                part.region = region

    def divide(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *others = arguments
        if hidden.shape[1] % mesh.size():
            raise InputError(
                f"a sequence must be a multiple of `strategy.tensor_parallel_size` ({mesh.size()}) long to be divided, "
                f"but has {hidden.shape[1]} tokens; use another `data.max_length` or "
                "`strategy.sequence_parallel=false`"
            )
        return take_part(hidden, region.group, 1), *others

    def put_together(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *others = arguments
        return gather_parts(hidden, region.group, 1), *others

    blocks[0].register_forward_pre_hook(divide)
    blocks[-1].register_forward_pre_hook(put_together)
