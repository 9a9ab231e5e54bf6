"""What two ranks that share every matrix have in common and what not, written down by each of them.

Started by `test_two_ranks.py`: `torchrun --nproc_per_node 2 facts_of_two_ranks.py FOLDER`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from lmmodules import CausalLM, Transformer
from lmmodules.errors import InputError
from lmmodules.parallel.agreement import check_batch, check_orders
from lmmodules.parallel.mesh import Spread, local_tensor, shard_over_mesh
from lmmodules.parallel.tensor_parallel import Region, SequenceParallelDropout
from lmmodules.plan import SavedBytes
from lmmodules.scale import Layout, divided_parameters

B, T, D, LAYERS, VOCABULARY = 2, 8, 16, 3, 32


def network(dropout: float = 0.0, **changes: Any) -> Transformer:
    sizes: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": D, "num_layers": LAYERS, "num_heads": 4}
    return Transformer(**(sizes | changes), causal=True, dropout=dropout, attention_dropout=dropout)


def spread(objective: CausalLM, mesh: DeviceMesh, how: Spread | None = None) -> CausalLM:
    objective._device_mesh = mesh
    shard_over_mesh(objective, how)
    return objective


def batch(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randint(VOCABULARY, (B, T), generator=generator) for name in ("input_ids", "labels")}


def refusal(function: Any, *arguments: Any, **options: Any) -> str:
    try:
        function(*arguments, **options)
    except InputError as error:
        return str(error)
    return ""


class Reduced(TorchDispatchMode):
    """Counts the bytes of all-reduces."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d" and func.name().endswith("allreduce_"):
            self.bytes += sum(tensor.nbytes for tensor in args[0])
        return func(*args, **(kwargs or {}))


def refusals(mesh: DeviceMesh) -> dict[str, str]:
    rank = mesh["tensor_parallel"].get_local_rank()
    group = mesh["tensor_parallel"].get_group()
    torch.manual_seed(rank)
    other_weights = CausalLM(network())
    torch.manual_seed(0)
    return {
        "weights": refusal(spread, other_weights, mesh),
        "batch": refusal(check_batch, list(batch(rank).values()), group),
        "seed": refusal(check_orders, {"data": [8.0, 1.0], "seed": rank}),
        "tokenizer": refusal(check_orders, {"tokenizer": str(rank) * 40}),
        "same orders": refusal(check_orders, {"seed": 3, "data": [8.0, 1.0]}),
        "same batch": refusal(check_batch, list(batch().values()), group),
        "num_heads": refusal(spread, CausalLM(network(num_heads=1)), mesh),
        "num_kv_heads": refusal(spread, CausalLM(network(num_kv_heads=1)), mesh),
        "intermediate_size": refusal(spread, CausalLM(network(intermediate_size=33)), mesh),
        "vocab_size": refusal(spread, CausalLM(network(vocab_size=33)), mesh),
    }


def dropout(mesh: DeviceMesh) -> dict[str, Any]:
    """Draws of the common stream and of a rank's own, and what twelve steps with dropout leave of equality."""
    facts: dict[str, Any] = {}
    torch.manual_seed(3)
    region = Region(mesh["tensor_parallel"], divided=True)
    with region.own_stream(torch.device("cpu"), active=True):
        facts["own"] = torch.rand(3).tolist()
    facts["common"] = torch.rand(3).tolist()
    divided = SequenceParallelDropout(0.5)
    divided.region = region
    facts["divided sequence"] = divided(torch.ones(32)).tolist()
    facts["whole sequence"] = nn.Dropout(0.5)(torch.ones(32)).tolist()
    for name, how in (("whole", Spread()), ("divided", Spread(sequence_parallel=True))):
        for again in (False, True):
            torch.manual_seed(5)
            how = Spread(sequence_parallel=how.sequence_parallel, activation_checkpointing=again)
            objective = spread(CausalLM(network(0.3)), mesh, how).train()
            optimizer = torch.optim.SGD(objective.parameters(), lr=0.1)
            losses = []
            for step in range(12):
                loss = objective.training_step(batch(step), step)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                losses.append(loss.item())
            everywhere = [it for it in objective.parameters() if not isinstance(it, DTensor)]
            key = f"{name}{' recomputed' if again else ''}"
            facts[f"{key} losses"] = losses
            facts[f"{key} shared parameters"] = [it.double().sum().item() for it in everywhere]
    return facts


def sizes(mesh: DeviceMesh) -> dict[str, Any]:
    """What this rank keeps and sends, beside what `scale` and `plan` say that it does."""
    whole = CausalLM(network(intermediate_size=48))
    with SavedBytes(whole) as one:
        whole.backbone(batch()["input_ids"])
    layout = Layout(tensor=2)
    parameters = layout.parameters(sum(it.numel() for it in whole.parameters()), divided_parameters(whole, 2))
    ours = spread(CausalLM(network(intermediate_size=48)), mesh)
    with SavedBytes(ours) as own:
        ours.backbone(batch()["input_ids"])
    with Reduced() as reduced:
        ours.training_step(batch(), 0).backward()
    again = spread(CausalLM(network(0.1)), mesh, Spread(activation_checkpointing=True)).train()
    with Reduced() as reduced_again:
        again.training_step(batch(), 0).backward()
    return {
        "parameters": [sum(local_tensor(it).numel() for it in ours.parameters()), parameters],
        "kept in blocks": [own.in_blocks, one.in_blocks - one.divided / 2],
        "sent": [reduced.bytes, layout.tensor_bytes(LAYERS, 4 * B * T * D)],
        "sent, recomputed": [
            reduced_again.bytes,
            Layout(tensor=2, recomputed=True).tensor_bytes(LAYERS, 4 * B * T * D),
        ],
    }


class Exchanged(TorchDispatchMode):
    """Notes the types of numbers in gathers and in sums that are scattered."""

    def __init__(self) -> None:
        super().__init__()
        self.types: dict[str, list[str]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d" and func.name().endswith("_base_"):
            kinds = self.types.setdefault(func.name().removeprefix("c10d::"), [])
            kinds.append(str(args[0].dtype))
        return func(*args, **(kwargs or {}))


def shards(mesh: DeviceMesh) -> dict[str, Any]:
    """What the policies of sharding change over three steps, in which every rank has rows of its own."""
    facts: dict[str, Any] = {}
    for name, how, autocast in (
        ("float32", Spread(sharded=True), False),
        ("offloaded", Spread(sharded=True, cpu_offload=True), False),
        ("bfloat16", Spread(sharded=True, gathered_dtype=torch.bfloat16), True),
    ):
        torch.manual_seed(7)
        objective = spread(CausalLM(network()), mesh, how)
        optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-2)
        losses = []
        with Exchanged() as exchanged:
            for step in range(3):
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    part = {key: tensor.chunk(2)[dist.get_rank()] for key, tensor in batch(step).items()}
                    loss = objective.training_step(part, step)
                loss.backward()
                objective.configure_gradient_clipping(optimizer, 0.5, "norm")
                optimizer.step()
                optimizer.zero_grad()
                losses.append(objective.collect_training_metrics()["loss"])
        states = [module._get_fsdp_state() for module in objective.modules() if isinstance(module, FSDPModule)]
        facts[name] = {
            "losses": losses,
            "exchanged": {kind: sorted(set(types)) for kind, types in exchanged.types.items()},
            "kept": sorted({str(parameter.dtype) for parameter in objective.parameters()}),
            "policies": sorted({type(state._fsdp_param_group.offload_policy).__name__ for state in states}),
        }
    return facts


def main() -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    mesh = init_device_mesh("cpu", (1, 2), mesh_dim_names=("data_parallel", "tensor_parallel"))
    data_mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("data_parallel", "tensor_parallel"))
    facts = {
        "refusals": refusals(mesh), "dropout": dropout(mesh), "sizes": sizes(mesh), "shards": shards(data_mesh)
    }  # fmt: skip
    Path(sys.argv[1], f"{rank}.json").write_text(json.dumps(facts))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
