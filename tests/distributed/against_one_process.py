"""Trains small networks on a mesh of processes, and says how far losses and weights are from those of one process.

Started by `test_tensor_parallel.py`: `torchrun --nproc_per_node N against_one_process.py OUTPUT LAYOUT...`. A layout is
`ddp`, or the size of the tensor axis, where an `s` behind it asks for sequence parallelism and the data axis takes what
is left over.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from lmmodules import CausalLM, MaskedLM, Transformer
from lmmodules.batch import IGNORED
from lmmodules.models import LanguageModelHead
from lmmodules.models.alibi import Alibi
from lmmodules.models.positions import Learned
from lmmodules.models.relative_positions import RelativeBias
from lmmodules.objectives import ELECTRA, CocoLM, Objective
from lmmodules.objectives.p_tuning import PTuning
from lmmodules.parallel.mesh import Spread, full_tensor, shard_over_mesh

STEPS, ROWS, LENGTH, VOCABULARY = 20, 4, 16, 48
ADAMW = partial(torch.optim.AdamW, lr=3e-3)


def backbone(causal: bool, **changes: Any) -> Transformer:
    sizes: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_layers": 3, "num_heads": 4}
    return Transformer(**(sizes | changes), causal=causal)


def causal() -> Objective:
    return CausalLM(backbone(True, position=Learned(LENGTH, 32)), label_smoothing=0.1, optimizer=ADAMW)


def grouped() -> Objective:
    """Gates, grouped heads, ALiBi, RMSNorm, and an output matrix of its own."""
    network = backbone(
        True, num_heads=8, num_kv_heads=4, activation="swiglu", norm="rms_norm", bias=False, position=Alibi(8)
    )
    return CausalLM(network, head=LanguageModelHead(32, VOCABULARY, tied=False), optimizer=ADAMW)


def masked() -> Objective:
    return MaskedLM(backbone(False, pre_norm=False, embedding_norm=True, pad_id=1), optimizer=ADAMW)


def coco_lm() -> Objective:
    position = RelativeBias(4, 8, 16, Learned(LENGTH, 32))
    # Of a rank's own batch alone, the contrastive loss would be another with another number of data ranks.
    return CocoLM(backbone(False, position=position), auxiliary_depth=0.34, gather_negatives=True, optimizer=ADAMW)


def electra() -> Objective:
    """Whose generator has one head, which no ranks can share."""
    return ELECTRA(backbone(False, position=Learned(LENGTH, 32)), optimizer=ADAMW)


def p_tuning() -> Objective:
    return PTuning(backbone(True), encoder="mlp", optimizer=ADAMW)


OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "causal": causal, "grouped": grouped, "masked": masked, "coco_lm": coco_lm, "electra": electra,
    "p_tuning": p_tuning,
}  # fmt: skip


def batch(name: str, step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)

    def ids(*shape: int) -> Tensor:
        return torch.randint(2, VOCABULARY, shape, generator=generator)

    made = {"input_ids": ids(ROWS, LENGTH), "labels": ids(ROWS, LENGTH)}
    if name in ("masked", "coco_lm", "electra"):
        chosen = torch.rand(ROWS, LENGTH, generator=generator) < 0.3
        chosen[:, 3] = True
        made["labels"] = made["labels"].masked_fill(~chosen, IGNORED)
    if name == "masked":
        made["attention_mask"] = torch.ones(ROWS, LENGTH, dtype=torch.long)
        made["attention_mask"][1, -4:] = 0
    if name in ("coco_lm", "electra"):
        made["draws"] = torch.rand(ROWS, LENGTH, generator=generator)
    if name == "coco_lm":
        made["crop_ids"] = ids(ROWS, 12)
    if name == "p_tuning":
        made["task_ids"] = torch.zeros(ROWS, dtype=torch.long)
        made["prompt_ids"] = torch.full((ROWS, LENGTH), -1)
        made["prompt_ids"][:, :6] = torch.arange(6)
        made["labels"] = torch.where(torch.arange(LENGTH) == LENGTH - 1, made["labels"], IGNORED)
    return made


class Step(nn.Module):
    """A training step as a forward pass, which is what DDP wraps."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, batch: dict[str, Tensor], step: int) -> Tensor:
        return self.objective.training_step(batch, step)


def train(
    name: str, mesh: Any = None, spread: Spread | None = None, *, copied: bool = False
) -> tuple[list[float], dict[str, Tensor]]:
    torch.manual_seed(0)
    objective = OBJECTIVES[name]()
    if name in ("coco_lm", "electra"):
        objective.double()  # in float32, rounding grows with a loss of fifty times the others' size
    rank, ranks = 0, 1
    if mesh is not None:
        objective._device_mesh = mesh
        shard_over_mesh(objective, spread)
        rank, ranks = mesh["data_parallel"].get_local_rank(), mesh["data_parallel"].size()
    step_of: nn.Module = Step(objective)
    if copied:
        step_of, rank, ranks = DistributedDataParallel(step_of), dist.get_rank(), dist.get_world_size()
    optimizer = objective.configure_optimizers()
    losses = []
    for step in range(STEPS):
        part = {key: tensor.chunk(ranks)[rank] for key, tensor in batch(name, step).items()}
        step_of(part, step).backward()
        objective.configure_gradient_clipping(optimizer, 0.5, "norm")
        optimizer.step()
        optimizer.zero_grad()
        losses.append(objective.collect_training_metrics()["loss"])
    return losses, {key: full_tensor(tensor).detach().clone() for key, tensor in objective.named_parameters()}


class Collectives(TorchDispatchMode):
    """Notes what is said between ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            self.names.append(func.name().removeprefix("c10d::"))
        return func(*args, **(kwargs or {}))


def collectives(mesh: Any) -> dict[str, list[str]]:
    """Those of one more layer, forwards and backwards."""
    counts = {}
    for layers in (1, 2):
        network = backbone(True, num_layers=layers)
        objective = CausalLM(network, optimizer=ADAMW)
        objective._device_mesh = mesh
        shard_over_mesh(objective)
        forwards, backwards = Collectives(), Collectives()
        with forwards:
            hidden = network(torch.zeros(2, 4, dtype=torch.long))
        with backwards:
            hidden.sum().backward()
        counts[layers] = [forwards.names, backwards.names]
    forward, backward = (sorted(two[len(one) :]) for one, two in zip(counts[1], counts[2], strict=True))
    return {"forward": forward, "backward": backward}


def main() -> None:
    output, *layouts = sys.argv[1:]
    expected = {name: train(name) for name in OBJECTIVES}
    dist.init_process_group("gloo")
    found: dict[str, Any] = {}
    for layout in layouts:
        copied, ranks = layout == "ddp", dist.get_world_size()
        size = 1 if copied else int(layout.rstrip("s"))
        mesh = None
        if not copied:
            mesh = init_device_mesh("cpu", (ranks // size, size), mesh_dim_names=("data_parallel", "tensor_parallel"))
        for name, (losses, weights) in expected.items():
            spread = Spread(sequence_parallel=layout.endswith("s"), activation_checkpointing=layout.endswith("s"))
            ours, trained = train(name, mesh, spread, copied=copied)
            found[f"{layout} {name}"] = {
                "loss": max(abs(one - other) for one, other in zip(losses, ours, strict=True)),
                "weights": max((weights[key] - trained[key]).abs().max().item() for key in weights),
                "steps": len(ours),
                "learned": losses[0] - losses[-1],
            }
        if size > 1 and size == ranks and not layout.endswith("s"):
            found[f"{layout} collectives"] = collectives(mesh)
    if dist.get_rank() == 0:
        Path(output).write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
