"""Processes that make up no mesh are refused, and the state of an optimizer finds its parameters by their groups."""

from __future__ import annotations

import pytest
import torch
from hydra.utils import instantiate
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import ModelParallelStrategy

from lmmodules.composition import compose_config
from lmmodules.errors import InputError
from lmmodules.parallel.mesh import Spread
from lmmodules.parallel.sharded_checkpoint import by_name
from lmmodules.parallel.strategies import FSDP2Strategy, MeshStrategy


@pytest.mark.parametrize(
    ("size", "data_parallel", "processes", "sentence"),
    [
        (2, True, 3, "must be a multiple of `strategy.tensor_parallel_size` (2), but is 3; use `trainer.devices=2`"),
        (4, True, 2, "must be a multiple of `strategy.tensor_parallel_size` (4), but is 2; use `trainer.devices=4`"),
        (2, False, 1, "must be `strategy.tensor_parallel_size` (2), but is 1; use `trainer.devices=2`"),
        (
            2, False, 4,
            ("must be `strategy.tensor_parallel_size` (2), but is 4; use `trainer.devices=2` or "
             "`strategy=fsdp_tensor_parallel`"),
        ),
    ],
)  # fmt: skip
def test_a_world_that_is_no_mesh(size: int, data_parallel: bool, processes: int, sentence: str) -> None:
    strategy = MeshStrategy(size, data_parallel=data_parallel)
    strategy.parallel_devices = [torch.device("cpu")] * processes
    with pytest.raises(InputError) as caught:
        strategy.setup_environment()
    assert str(caught.value) == f"`trainer.devices` times `trainer.num_nodes` {sentence}"


class TestOptions:
    def test_parameters_are_gathered_in_the_precision_of_the_products(self) -> None:
        strategy = FSDP2Strategy(cpu_offload=True)
        assert strategy.spread == Spread(sharded=True, cpu_offload=True)
        strategy.precision_plugin = MixedPrecision("bf16-mixed", "cpu")
        assert strategy.spread == Spread(sharded=True, cpu_offload=True, gathered_dtype=torch.bfloat16)

    @pytest.mark.parametrize(("offload", "backend"), [(True, "cuda:nccl,cpu:gloo"), (False, None)])
    def test_what_a_processor_keeps_beside_a_gpu(
        self, offload: bool, backend: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ModelParallelStrategy, "setup_environment", lambda self: None)
        monkeypatch.setattr(ModelParallelStrategy, "root_device", torch.device("cuda", 0))
        strategy = MeshStrategy(2, cpu_offload=offload)
        strategy.parallel_devices = [torch.device("cuda", 0)] * 4
        strategy.setup_environment()
        assert strategy.process_group_backend == backend
        moved: list[torch.device] = []
        strategy._model = type("Module", (), {"to": lambda self, device: moved.append(device)})()
        strategy.model_to_device()
        assert moved == ([] if offload else [torch.device("cuda", 0)])

    def test_shards_are_kept_where_there_are_some(self) -> None:
        with pytest.raises(InputError, match="keeps shards of a data axis, but `strategy=tensor_parallel` has none"):
            MeshStrategy(2, data_parallel=False, cpu_offload=True)

    @pytest.mark.parametrize("strategy", ["fsdp", "fsdp_tensor_parallel"])
    def test_they_arrive_from_the_command_line(self, strategy: str) -> None:
        for value in (True, False):
            config = compose_config("train", "max_steps=1", f"strategy={strategy}", f"strategy.cpu_offload={value}")
            assert instantiate(config.trainer.strategy).spread.cpu_offload is value


class TestByName:
    def state(self) -> tuple[torch.nn.Module, dict]:
        """Of a module whose optimizer has its second and third parameter in the first group."""
        module = torch.nn.Sequential(torch.nn.LayerNorm(3), torch.nn.Linear(3, 3))
        parameters = dict(module.named_parameters())
        groups = [["1.weight"], ["0.weight", "0.bias", "1.bias"]]
        optimizer = torch.optim.AdamW([{"params": [parameters[name] for name in names]} for names in groups])
        module(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()
        self.groups, self.optimizer = groups, optimizer
        return module, optimizer.state_dict()

    def test_numbers_follow_the_groups_and_not_the_module(self) -> None:
        module, state = self.state()
        named = by_name(state, self.groups)
        assert [group["params"] for group in named["param_groups"]] == self.groups
        for name, parameter in module.named_parameters():
            assert torch.equal(named["state"][name]["exp_avg"], self.optimizer.state[parameter]["exp_avg"]), name
        assert named["param_groups"][0]["lr"] == state["param_groups"][0]["lr"]

    def test_other_groups_are_refused(self) -> None:
        _, state = self.state()
        with pytest.raises(InputError, match=r"of \[1, 3\] tensors, but have \[2, 2\]; use the `parameter_groups`"):
            by_name(state, [["1.weight", "1.bias"], ["0.weight", "0.bias"]])
