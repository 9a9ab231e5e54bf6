"""What a run would be, as numbers, found out without training, data or memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from lmmodules.errors import InputError
from lmmodules.fitting_parts import chosen, devices_per_node
from lmmodules.network import build_backbone, settle_model
from lmmodules.scale import Layout, divided_parameters

if TYPE_CHECKING:
    from torch import nn

    from lmmodules.objectives import Objective
    from lmmodules.optim import ParameterGroups

STATES_PER_PARAMETER = {"Muon": 1, "Adafactor": 0, "SGD": 0}
"""What an optimizer keeps per parameter where it is not two moments; Adafactor keeps next to nothing."""


@dataclass(frozen=True)
class Plan:
    """What a run would be, as numbers."""

    config: DictConfig
    objective: Objective
    groups: ParameterGroups
    devices: int
    batch_size: int  # sequences per device and batch
    length: int  # tokens per sequence
    forward_flops: int  # of one batch on one device, as counted
    saved: SavedBytes  # for the backward pass of one batch, on one device
    states_per_parameter: int  # optimizer states

    @property
    def accumulation(self) -> int:
        """Batches per optimizer step and device."""
        return int(self.config.trainer.accumulate_grad_batches)

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step on all devices."""
        return self.batch_size * self.length * self.accumulation * self.layout.data

    @property
    def parameters(self) -> int:
        """Trainable numbers, shared ones once."""
        return sum(parameter.numel() for parameter in self.objective.parameters())

    @property
    def activation_bytes(self) -> int:
        """Bytes of activations that one device would keep for the backward pass of one batch."""
        return self.saved.total

    @property
    def layout(self) -> Layout:
        """How the devices share the run.

        Raises:
            InputError: When they cannot be shared out evenly.
        """
        strategy = self.config.trainer.strategy
        kind = str(strategy._target_).rpartition(".")[2] if OmegaConf.is_dict(strategy) else ""
        if kind not in ("MeshStrategy", "FSDP2Strategy"):
            return Layout(data=self.devices)
        tensor = int(strategy.get("tensor_parallel_size", 1))
        if self.devices % tensor:
            raise InputError(
                f"`trainer.devices` times `trainer.num_nodes` must be a multiple of `strategy.tensor_parallel_size` "
                f"({tensor}), but is {self.devices}; use `trainer.devices={tensor}`"
            )
        return Layout(
            tensor, self.devices // tensor, sharded=True, recomputed=bool(strategy.get("activation_checkpointing"))
        )

    @property
    def parameters_per_device(self) -> float:
        """Parameters that a device keeps."""
        return self.layout.parameters(self.parameters, divided_parameters(self.objective, self.layout.tensor))

    @property
    def kept_activation_bytes(self) -> float:
        """Bytes of activations that a device keeps for the backward pass of one batch, before mixed precision.

        Tensor parallelism divides what attention and MLP keep, but for their inputs. With checkpointing, every block
        keeps its input, and one at a time the rest.
        """
        blocks = self.saved.in_blocks - self.saved.divided * (1 - 1 / self.layout.tensor)
        if self.layout.recomputed:
            layers = max(len(self.objective.backbone.blocks), 1)
            blocks = (layers - 1) * self.hidden_bytes + blocks / layers
        return self.saved.total - self.saved.in_blocks + blocks

    @property
    def hidden_bytes(self) -> int:
        """Bytes of the hidden states of one batch in float32."""
        return 4 * self.batch_size * self.length * int(self.objective.backbone.hidden_size)


def plan_run(config: DictConfig) -> Plan:
    """Build the network without memory and run one batch through it without arithmetic.

    Args:
        config: Composed as for `lmm-train`.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    from lmmodules.objectives import LanguageModel

    settle_model(config)
    objective_class: type[Objective] = get_class(config.objective._target_)
    objective_class.check_backbone(config.model.causal, chosen("model") or config.model._target_)
    if config.model.vocab_size is None:
        size = config.tokenizer.get("vocab_size")  # of one that is yet to be trained; others know theirs
        config.model.vocab_size = instantiate(config.tokenizer).vocab_size if size is None else size
    length, batch_size = int(config.data.max_length), int(config.data.batch_size)
    if config.data.get("batch_tokens"):
        batch_size = max(1, int(config.data.batch_tokens) // length)
    groups: ParameterGroups = instantiate(config.parameter_groups, _convert_="all")
    with FakeTensorMode():
        backbone = build_backbone(config, weights=False)
        objective: Objective = instantiate(config.objective, backbone=backbone, _convert_="all")
        input_ids = torch.zeros(batch_size, length, dtype=torch.int64)
        saved = SavedBytes(objective)
        head_flops = 0
        with saved:
            with FlopCounterMode(display=False, custom_mapping=_attention_flops()) as counter:
                hidden = backbone(input_ids)
            if isinstance(objective, LanguageModel):
                objective.head.features(hidden)
                head_flops = hidden[..., 0].numel() * round(objective.label_share * objective.head.flops_per_token())
        # Objectives of several networks, or of none but a head per sequence, know best themselves.
        forward_flops = counter.get_total_flops() + head_flops
        if not isinstance(objective, LanguageModel):
            forward_flops = round(batch_size * length * objective.flops_per_token(length))
        optimizer = instantiate(config.optimizer, _convert_="all")(groups(objective))
    return Plan(
        config=config,
        objective=objective,
        groups=groups,
        devices=number_of_devices(config),
        batch_size=batch_size,
        length=length,
        forward_flops=forward_flops,
        saved=saved,
        states_per_parameter=STATES_PER_PARAMETER.get(type(optimizer).__name__, 2),
    )


def _attention_flops() -> dict[Any, Any]:
    """Torch's counter knows the attention kernels of GPUs but not that of processors, on which the batch is faked."""
    import torch

    def flops(query: Sequence[int], key: Sequence[int], *_: Any, **__: Any) -> int:
        batch, heads, length, size = query
        return 4 * batch * heads * length * key[2] * size  # two products, two operations per element

    return {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: flops}


class SavedBytes:
    """Counts the bytes that autograd keeps for the backward pass, each storage once and parameters not at all.

    Args:
        module: What runs while they are counted, with or without memory.
    """

    def __init__(self, module: nn.Module) -> None:
        from torch.autograd.graph import saved_tensors_hooks

        from lmmodules.parallel.mesh import local_tensor

        self._module = module
        self._parameters = {local_tensor(parameter).untyped_storage()._cdata for parameter in module.parameters()}
        self._storages: dict[int, Any] = {}
        self._in_blocks: set[int] = set()
        self._divided: set[int] = set()
        self._block_depth = 0
        self._inputs: list[set[int]] = []  # of the attention or MLP that runs
        self._watches: list[Any] = []
        self._hooks = saved_tensors_hooks(self._count, lambda tensor: tensor)

    def _count(self, tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._parameters and key not in self._storages:
            self._storages[key] = storage
            if self._block_depth:
                self._in_blocks.add(key)
            if self._inputs and key not in self._inputs[-1]:
                self._divided.add(key)
        return tensor

    def _bytes(self, keys: Iterable[int]) -> int:
        return sum(self._storages[key].nbytes() for key in keys)

    @property
    def total(self) -> int:
        """Bytes so far."""
        return self._bytes(self._storages)

    @property
    def in_blocks(self) -> int:
        """Those of them that blocks keep."""
        return self._bytes(self._in_blocks)

    @property
    def divided(self) -> int:
        """Those of them that attention and MLP keep of what they make themselves, which has heads or inner size."""
        return self._bytes(self._divided)

    def __enter__(self) -> SavedBytes:
        from lmmodules.models.attention import Attention
        from lmmodules.models.block import Block
        from lmmodules.models.mlp import MLP

        for part in self._module.modules():
            if isinstance(part, Block):
                self._watch(part, self._enter_block, self._leave_block)
            elif isinstance(part, (Attention, MLP)):
                self._watch(part, self._enter_matrices, self._leave_matrices)
        self._hooks.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._hooks.__exit__(*exception)
        for watch in self._watches:
            watch.remove()

    def _watch(self, part: nn.Module, enter: Callable[..., None], leave: Callable[..., None]) -> None:
        self._watches += [part.register_forward_pre_hook(enter), part.register_forward_hook(leave)]

    def _enter_block(self, *_: object) -> None:
        self._block_depth += 1

    def _leave_block(self, *_: object) -> None:
        self._block_depth -= 1

    def _enter_matrices(self, _: nn.Module, arguments: tuple[Any, ...]) -> None:
        from torch import Tensor
        from torch.utils._pytree import tree_leaves

        self._inputs.append(
            {leaf.untyped_storage()._cdata for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)}
        )

    def _leave_matrices(self, *_: object) -> None:
        self._inputs.pop()


def number_of_devices(config: DictConfig) -> int:
    """Processes of the run: devices per node times nodes."""
    return devices_per_node(config) * int(config.trainer.num_nodes)
