"""What a preview promises, against arithmetic done by hand."""

from __future__ import annotations

import functools
import math
import resource
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from lmmodules import plots
from lmmodules.composition import compose_config, wrong_input_raised
from lmmodules.data import ByteLevelBPE, TextFiles
from lmmodules.errors import InputError
from lmmodules.objectives import LanguageModel
from lmmodules.plan import Plan, SavedBytes, number_of_devices, plan_run
from lmmodules.preview import (
    CURVE_POINTS,
    draw_schedule,
    format_flops,
    group_table,
    memory_table,
    parameter_table,
    run_table,
)

# Of decoder_tiny, with a small vocabulary and batch.
B, T, D, H, V, LAYERS = 3, 24, 64, 4, 300, 2
SMALL = ["model=decoder_tiny", f"model.vocab_size={V}", f"data.max_length={T}", f"data.batch_size={B}"]


def config_of(*overrides: str) -> DictConfig:
    return compose_config("train", "max_steps=50", *overrides)


@functools.cache
def plan(*overrides: str) -> Plan:
    """Of decoder_tiny, or of a published model at its own size."""
    published = [override for override in overrides if override.startswith("model=") and "tiny" not in override]
    return plan_run(config_of(*([] if published else SMALL), *overrides))


def under(planned: Plan, *overrides: str) -> Plan:
    """The same network and batch under other options of the trainer."""
    return replace(planned, config=config_of(*overrides))


GPT2 = ("model=gpt2", "data.max_length=128", "data.batch_size=8")


def cells(table: Any) -> dict[str, list[str]]:
    """Rows of a table, by their first cell."""
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    return {name: list(rest) for name, *rest in zip(*columns, strict=True)}


def gigabytes(table: Any) -> dict[str, float]:
    return {
        name.removeprefix("[bold]"): float(value.removeprefix("[bold]").removesuffix(" GB"))
        for name, (value,) in cells(table).items()
        if value.endswith(" GB")
    }


def text(table: Any) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


class TestParameters:
    def test_decoder_tiny(self) -> None:
        attention = (3 * D * D + 3 * D) + (D * D + D)
        mlp = (4 * D * D + 4 * D) + (4 * D * D + D)
        norms = 2 * (2 * D)
        assert plan().parameters == V * D + LAYERS * (attention + mlp + norms) + 2 * D

    @pytest.mark.parametrize(
        ("overrides", "parameters"),
        [
            (GPT2, 124_439_808),
            # fairseq's RobertaModel: a tied head with a transform, no segment embeddings.
            (("objective=masked_lm", "model=roberta_base", "data.max_length=8"), 124_696_665),
            pytest.param(
                ("objective=masked_lm", "model=roberta_large", "data.max_length=8"),
                355_411_033,
                marks=pytest.mark.slow,
            ),
        ],
        ids=["gpt2", "roberta_base", "roberta_large"],
    )
    def test_published_sizes(self, overrides: tuple[str, ...], parameters: int) -> None:
        assert plan(*overrides).parameters == parameters

    def test_the_vocabulary_is_that_of_the_tokenizer_unless_the_model_has_one(self) -> None:
        found = plan("model.vocab_size=null", "tokenizer.vocab_size=777")
        assert found.objective.backbone.vocab_size == 777

    def test_a_tokenizer_that_is_there_tells_its_vocabulary(self, tmp_path: Path, texts: Path) -> None:
        tokenizer = ByteLevelBPE(290).train(TextFiles(texts))
        (tmp_path / "tokenizer.json").write_text(tokenizer.to_json())
        found = plan("model.vocab_size=null", "tokenizer=file", f"tokenizer.path={tmp_path}/tokenizer.json")
        assert found.objective.backbone.vocab_size == tokenizer.vocab_size
        with pytest.raises(InputError, match="nowhere"), wrong_input_raised():
            plan("model.vocab_size=null", "tokenizer=file", "tokenizer.path=nowhere.json")

    def test_the_parts_of_the_table_add_up(self) -> None:
        found = plan("objective=masked_lm", "model=encoder_tiny", "position=learned")
        rows = cells(parameter_table(found))
        number = {name: int(values[0].replace(",", "")) for name, values in rows.items()}
        assert sum(number[name] for name in number if not name.startswith(" ")) == found.parameters
        inner = sum(number[name] for name in number if name.startswith(" "))
        assert number[f"{LAYERS} blocks, each"] == LAYERS * inner
        assert number["heads of the objective"] == (D * D + D) + 2 * D + V, "the tied matrix is not counted again"
        shares = [float(values[1].rstrip("%")) for name, values in rows.items() if not name.startswith(" ")]
        assert sum(shares) == pytest.approx(100, abs=0.3)

    def test_every_parameter_is_in_one_optimizer_group(self) -> None:
        found = plan()
        rows = cells(group_table(found)).values()
        assert sum(int(row[1].replace(",", "")) for row in rows) == found.parameters
        assert sum(int(row[0].replace(",", "")) for row in rows) == len(list(found.objective.parameters()))
        assert {row[2] for row in rows} == {"0.1", "0"}


class TestTokens:
    @pytest.mark.parametrize(
        ("overrides", "tokens"),
        [
            ([], B * T),
            (["trainer.accumulate_grad_batches=5"], B * T * 5),
            (["trainer.devices=4"], B * T * 4),
            (["trainer.devices=4", "trainer.num_nodes=2", "trainer.accumulate_grad_batches=5"], B * T * 4 * 2 * 5),
        ],
    )
    def test_tokens_of_a_step(self, overrides: list[str], tokens: int) -> None:
        found = plan(*overrides)
        assert found.tokens_per_step == tokens
        rows = cells(run_table(found))
        assert rows["tokens per step"][0].startswith(f"{tokens:,} ({B} sequences x {T} tokens")
        assert rows["optimizer steps"] == ["50"]
        assert float(rows["tokens per parameter"][0]) == pytest.approx(50 * tokens / found.parameters, rel=5e-3)

    @pytest.mark.parametrize(
        ("devices", "nodes", "number"),
        [(1, 1, 1), (4, 1, 4), (4, 3, 12), ("4", 1, 4), ([0, 2, 5], 1, 3), ([0, 2, 5], 2, 6)],
    )
    def test_devices(self, devices: object, nodes: int, number: int) -> None:
        trainer = {"devices": devices, "num_nodes": nodes, "accelerator": "auto"}
        assert number_of_devices(OmegaConf.create({"trainer": trainer})) == number

    @pytest.mark.parametrize("every", ["auto", -1, "-1"])
    @pytest.mark.parametrize(
        ("accelerator", "present", "number"), [("auto", 8, 8), ("cuda", 8, 8), ("cpu", 8, 1), ("auto", 0, 1)]
    )
    def test_all_devices_of_the_machine(
        self, every: object, accelerator: str, present: int, number: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("torch.cuda.device_count", lambda: present)
        trainer = {"devices": every, "num_nodes": 1, "accelerator": accelerator}
        assert number_of_devices(OmegaConf.create({"trainer": trainer})) == number


class TestFlops:
    def expected(self, *, key_size: int = D) -> int:
        """Two operations per element of every matrix product of one forward."""
        projections = D * (D + 2 * key_size) + D * D + 2 * (D * 4 * D)
        scores_and_values = 2 * T * D  # per token, over all heads
        return 2 * B * T * (LAYERS * (projections + scores_and_values) + D * V)

    def test_by_hand(self) -> None:
        found = plan()
        assert found.forward_flops == self.expected()
        step = 3 * self.expected()
        assert cells(run_table(found))["FLOPs per step"][0].startswith(format_flops(step))
        assert cells(run_table(found))["FLOPs in all"] == [format_flops(50 * step)]

    def test_of_a_step_with_accumulation_on_devices(self) -> None:
        found = plan("trainer.devices=4", "trainer.accumulate_grad_batches=5")
        assert found.forward_flops == self.expected()
        assert cells(run_table(found))["FLOPs per step"][0].startswith(format_flops(3 * 20 * self.expected()))

    def test_shared_keys_and_values_save_projections_only(self) -> None:
        assert plan("model.num_kv_heads=2").forward_flops == self.expected(key_size=D // 2)

    @pytest.mark.parametrize("position", ["none", "rotary", "alibi", "learned", "sinusoidal"])
    def test_positions_are_no_products(self, position: str) -> None:
        found = plan(f"position={position}", "model.max_length=64")
        assert found.forward_flops == self.expected()

    @pytest.mark.parametrize(
        "overrides",
        [
            (),
            ("objective=masked_lm", "model=encoder_tiny"),
            ("model=smollm2_135m", "model.num_layers=2", "data.max_length=16"),
        ],
    )
    def test_the_count_is_the_formula_of_the_model(self, overrides: tuple[str, ...]) -> None:
        found = plan(*overrides)
        assert isinstance(found.objective, LanguageModel)
        expected = found.batch_size * found.length * found.objective.flops_per_token(found.length)
        assert found.forward_flops == expected

    @pytest.mark.parametrize(
        ("number", "shown"),
        [
            (0, "0 FLOP"),
            (950, "950 FLOP"),
            (1.5e9, "1.5 GFLOP"),
            (999.4e9, "999 GFLOP"),
            (999.7e9, "1 TFLOP"),
            (2e12, "2 TFLOP"),
            (3.14159e15, "3.14 PFLOP"),
            (4e18, "4 EFLOP"),
            (2.5e22, "25 ZFLOP"),
        ],
    )
    def test_format(self, number: float, shown: str) -> None:
        assert format_flops(number) == shown


class TestMemory:
    def test_activations_grow_with_the_batch_and_nothing_else_does(self) -> None:
        one, two, four = (plan(f"data.batch_size={size}") for size in (1, 2, 4))
        # What does not depend on the batch: tables of cosines and sines.
        constant = 2 * one.activation_bytes - two.activation_bytes
        assert 0 <= constant < 0.05 * one.activation_bytes
        assert four.activation_bytes - two.activation_bytes == 2 * (two.activation_bytes - one.activation_bytes)
        assert one.parameters == four.parameters

    def test_activations_are_at_least_what_the_products_need(self) -> None:
        # Inputs of the four matrix products of a block, and of the query-key and score-value products.
        least = 4 * B * T * LAYERS * (D + D + D + 4 * D + 3 * D)
        assert least < plan().activation_bytes < 4 * least

    def test_what_a_block_keeps_and_what_of_it_is_divided(self) -> None:
        found = plan("position=learned", "model.max_length=64", "model.dropout=0", "model.attention_dropout=0")
        # Numbers per token. Whole on every device: the inputs of norms and of matrices behind them, mean and deviation.
        whole = 4 * D + 2 * 2
        # With heads or inner size: queries, keys and values, what attention gathers and a normaliser per head, and
        # what stands before and behind the activation.
        divided = 3 * D + D + H + 4 * D + 4 * D
        assert found.saved.in_blocks == 4 * B * T * LAYERS * (whole + divided)
        assert found.saved.divided == 4 * B * T * LAYERS * divided
        outside = found.saved.total - found.saved.in_blocks
        two = replace(under(found, "strategy=tensor_parallel"), devices=2)
        assert two.kept_activation_bytes == outside + 4 * B * T * LAYERS * (whole + divided / 2)
        again = replace(under(found, "strategy=tensor_parallel", "strategy.activation_checkpointing=true"), devices=2)
        # The input of every block, and all that one of them keeps besides.
        assert again.kept_activation_bytes == outside + 4 * B * T * ((LAYERS - 1) * D + whole + divided / 2)

    def test_activations_are_counted_and_not_the_parameters(self) -> None:
        layer = nn.Linear(4, 8, bias=False)
        inputs = torch.zeros(5, 4, requires_grad=True)
        with SavedBytes(layer) as saved:
            layer(inputs)  # keeps its input, and its weight
        assert saved.total == 4 * inputs.numel()

    def test_a_storage_counts_once(self) -> None:
        inputs = torch.zeros(5, 4, requires_grad=True)
        with SavedBytes(nn.Identity()) as saved:
            (inputs * inputs.view(5, 4)).sum()
            inputs.view(20)[:3].square().sum()
        assert saved.total == 4 * inputs.numel()

    def test_by_hand(self) -> None:
        rows = gigabytes(memory_table(plan(*GPT2)))
        weights = 4 * 124_439_808 / 1e9
        assert rows["parameters"] == rows["gradients"] == pytest.approx(weights, abs=0.006)
        assert rows["optimizer states (2 per parameter)"] == pytest.approx(2 * weights, abs=0.006)
        kept = plan(*GPT2).activation_bytes / 1e9
        assert rows["activations kept for the backward pass"] == pytest.approx(kept, abs=0.006)
        assert rows["in all"] == pytest.approx(4 * weights + kept, abs=0.006)

    def test_mixed_precision_halves_activations_and_true_halves_everything(self) -> None:
        full = gigabytes(memory_table(plan(*GPT2)))
        bf16, fp16, true = (
            gigabytes(memory_table(under(plan(*GPT2), override)))
            for override in ("precision=bf16", "precision=fp16", "trainer.precision=bf16-true")
        )
        assert bf16 == fp16
        for name, number in full.items():
            if name.startswith("activations"):
                assert bf16[name] == pytest.approx(number / 2, abs=0.011)
                assert true[name] == pytest.approx(number / 2, abs=0.011)
            elif name != "in all":
                assert bf16[name] == number
                assert true[name] == pytest.approx(number / 2, abs=0.011)

    def test_sharding_divides_all_but_activations(self) -> None:
        four = replace(plan(*GPT2), devices=4)
        copied, sharded = (under(four, f"strategy={name}", "trainer.devices=4") for name in ("ddp", "fsdp"))
        assert (copied.layout.sharded, sharded.layout.sharded, sharded.layout.data) == (False, True, 4)
        whole, part = gigabytes(memory_table(copied)), gigabytes(memory_table(sharded))
        for name, number in whole.items():
            if name.startswith("activations"):
                assert part[name] == number
            elif name != "in all":
                assert part[name] == pytest.approx(number / 4, abs=0.011)
        assert "over 4 devices" in text(memory_table(sharded))
        assert "over" not in text(memory_table(copied))

    def test_muon_keeps_one_state(self) -> None:
        assert plan("optimizer=muon", "parameter_groups=hidden_matrices").states_per_parameter == 1
        assert plan().states_per_parameter == 2

    def test_nothing_real_is_allocated(self) -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = plan("model=gpt2_xl", "data.max_length=1024", "data.batch_size=8")
        assert found.parameters == 1_557_611_200
        unit = 1 if sys.platform == "darwin" else 1024
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit
        assert all(isinstance(parameter, FakeTensor) for parameter in found.objective.parameters())
        assert found.activation_bytes > 10e9
        assert grown < 0.1 * 4 * found.parameters


class TestSchedule:
    @pytest.fixture
    def drawn(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        """What the picture was made from; the picture is made as well."""
        seen: dict[str, Any] = {}
        real = plots.plot_learning_rate

        def watch(rates: list[float], path: Path, **options: Any) -> Path:
            seen.update(rates=rates, **options)
            return real(rates, path, **options)

        monkeypatch.setattr(plots, "plot_learning_rate", watch)
        return seen

    def test_the_curve_is_drawn(self, tmp_path: Path, drawn: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        config = config_of("schedule=cosine", "schedule.warmup_steps=10", "schedule.warmup_ratio=null",
                           "schedule.floor=0.1", "optimizer.lr=0.02", "paths.output_dir=plan")  # fmt: skip
        assert draw_schedule(config) == "plan/learning_rate.png"
        assert (tmp_path / "plan" / "learning_rate.png").read_bytes().startswith(b"\x89PNG")
        assert drawn["steps"] == list(range(51))
        # By the formula: a ramp to the peak, then half a cosine to a tenth of it.
        expected = [
            0.02 * (step / 10 if step < 10 else 0.1 + 0.45 * (1 + math.cos(math.pi * (step - 10) / 40)))
            for step in range(51)
        ]
        assert drawn["rates"] == pytest.approx(expected)
        assert drawn["title"] == "Cosine: peak 0.02, 50 steps"

    def test_a_long_run_has_a_point_per_mille(self, tmp_path: Path, drawn: dict[str, Any]) -> None:
        draw_schedule(config_of("schedule=constant", "max_steps=1000000", f"paths.output_dir={tmp_path}"))
        assert len(drawn["steps"]) == CURVE_POINTS + 1
        assert drawn["steps"][0] == 0
        assert drawn["steps"][-1] == 1_000_000

    def test_without_matplotlib_the_reason_stands_in_its_place(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        assert "lmmodules[plots]" in draw_schedule(config_of(f"paths.output_dir={tmp_path}"))


class TestRefusals:
    def test_a_backbone_of_the_wrong_kind(self) -> None:
        with pytest.raises(InputError, match="`CausalLM` needs a causal backbone"):
            plan("model=encoder_tiny")

    def test_a_sequence_longer_than_the_positions(self) -> None:
        with pytest.raises(InputError, match="length"):
            plan("position=learned", "model.max_length=8")
