"""From Python, the same overrides build the same run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

import lmmodules
from lmmodules import InputError
from lmmodules.callbacks import read_metrics
from lmmodules.command import input_error
from lmmodules.composition import compose, compose_config
from lmmodules.objectives import CausalLM, MaskedLM
from lmmodules.train import Run

SHORT = ["max_steps=4", "validate_every_steps=2", "checkpoint_every_steps=2"]


def told(*overrides: str) -> str:
    """What the command would say."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        compose(*overrides)
    sentence = input_error(caught.value)
    assert sentence is not None, caught.value
    return sentence


class TestConfig:
    def test_overrides_are_those_of_the_command_line(self) -> None:
        config = compose_config("train", "experiment=start_here", "max_steps=7", "optimizer.lr=0.5", "~logger")
        assert config.max_steps == 7
        assert config.optimizer.lr == 0.5
        assert "logger" not in config

    def test_every_composition_is_its_own(self) -> None:
        assert compose_config("train", "max_steps=1", "seed=3").seed == 3
        assert compose_config("train", "max_steps=1").seed == 0
        assert not GlobalHydra.instance().is_initialized()

    def test_another_use_of_hydra_is_no_hindrance(self) -> None:
        import hydra

        with hydra.initialize_config_dir(version_base="1.3", config_dir=str(lmmodules.command.conf_directory())):
            assert compose_config("train", "max_steps=9").max_steps == 9

    def test_any_working_directory_will_do(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert compose_config("generate", "prompt=x").prompt == "x"


class TestRefusals:
    """Told before text is read, so these are quick."""

    @pytest.mark.parametrize(
        ("overrides", "sentence"),
        [
            ([], "`max_steps` is missing"),
            (["max_steps=null"], "`max_steps` is missing"),
            (["max_steps=0"], "`max_steps` must be a whole number of optimizer steps, at least 1, but is 0"),
            (["max_steps=1", "log_every_steps=0"], "`log_every_steps` must be a whole number of optimizer steps"),
            (["max_steps=1", "resume=nowhere.ckpt"], "`resume` must be a file"),
            (["max_steps=1", "model=encoder_tiny"], "`CausalLM` needs a causal backbone, but `lmmodules.models"),
            (
                ["max_steps=1", "transform=masking"],
                "`CausalLM` needs a `CausalBatch`, but the data yields a `MaskedBatch`",
            ),
            (
                ["max_steps=1", "objective=coco_lm", "data.batch_size=1"],
                "`data.batch_size` must be at least 2 with `objective.scl=true`",
            ),
            (
                ["max_steps=1", "objective=cline", "data.batch_size=1", "objective.batch_negatives=true"],
                "`data.batch_size` must be at least 2 with `objective.batch_negatives=true`",
            ),
            (["max_steps=1", "data.batch_siez=3"], "`data.batch_siez` is not an option here"),
            (["max_steps=1", "model=decoder_smal"], "`model` has no option `decoder_smal`; there are"),
            (["max_steps=1", "+data.batch_siez=3"], "unexpected keyword argument 'batch_siez'"),
        ],
    )
    def test_a_wrong_input_is_told_as_the_command_would(self, overrides: list[str], sentence: str) -> None:
        assert sentence in told(*overrides)

    @pytest.mark.parametrize(
        "override", ["max_steps=0", "data.batch_siez=3", "model=decoder_smal", "+data.batch_siez=3"]
    )
    def test_every_wrong_input_is_an_input_error(self, override: str) -> None:
        with pytest.raises(InputError) as caught:
            compose("max_steps=1", override)
        assert str(caught.value) == told("max_steps=1", override)


class TestRun:
    def test_what_is_built_fits_together(self, tiny: list[str], tmp_path: Path) -> None:
        run = lmmodules.compose("experiment=start_here", *tiny, *SHORT, directory=str(tmp_path / "run"))
        assert isinstance(run, Run)
        assert isinstance(run.objective, CausalLM)
        assert run.directory == tmp_path / "run"
        assert run.config.model.vocab_size == run.data.vocab_size == run.objective.backbone.vocab_size == 300
        assert run.trainer.max_steps == 4
        assert not run.directory.exists(), "nothing is left before there is something to leave"

    def test_an_objective_brings_its_own(self, tiny: list[str], tmp_path: Path) -> None:
        others = [override for override in tiny if not override.startswith("model=")]
        run = compose(*others, "objective=masked_lm", "model=encoder_tiny", *SHORT, directory=str(tmp_path))
        assert isinstance(run.objective, MaskedLM)
        assert run.data.batch_type is MaskedLM.batch_type

    def test_the_directory_is_settled_once(
        self, tiny: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        run = compose(*tiny, *SHORT)
        assert run.directory.parts[0] == "runs"
        assert "${" not in run.config._get_node("paths")._get_node("output_dir")._value()

    def test_the_seed_decides_the_weights(self, tiny: list[str], tmp_path: Path) -> None:
        weights = [
            compose(*tiny, *SHORT, f"seed={seed}", directory=str(tmp_path)).objective.backbone.token_embedding.weight
            for seed in (1, 1, 2)
        ]
        assert weights[0].equal(weights[1])
        assert not weights[0].equal(weights[2])

    @pytest.mark.slow
    def test_fit_leaves_what_the_command_leaves(self, tiny: list[str], tmp_path: Path) -> None:
        run = compose("experiment=start_here", *tiny, *SHORT, directory=str(tmp_path / "run"))
        summary = run.fit()
        written = json.loads((run.directory / "summary.json").read_text())
        assert written == summary
        assert summary["steps"] == 4
        assert summary["tokens"] == 4 * 4 * 32
        assert summary["parameters"] == sum(parameter.numel() for parameter in run.objective.parameters())
        rows = read_metrics(run.directory / "metrics.csv")
        assert [row["step"] for row in rows if "train/loss" in row] == [1, 2, 3, 4]
        assert [row["step"] for row in rows if "val/loss" in row] == [2, 4]
        assert summary["val_loss"] == pytest.approx(rows[-1]["val/loss"])
        loaded = lmmodules.load(run.directory)
        expected = run.objective.state_dict()
        assert all(tensor.equal(expected[name]) for name, tensor in loaded.state_dict().items())
        assert lmmodules.load_tokenizer(run.directory).to_json() == run.data.tokenizer.to_json()

    @pytest.mark.slow
    def test_the_same_overrides_give_the_same_run(self, tiny: list[str], tmp_path: Path) -> None:
        losses = [compose(*tiny, *SHORT, directory=str(tmp_path / name)).fit()["val_loss"] for name in ("a", "b")]
        assert losses[0] == losses[1]
