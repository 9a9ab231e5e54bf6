"""Every experiment composes, states what it needs, and takes a step when its sizes are made small."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lmmodules.command import conf_directory
from lmmodules.composition import compose, compose_config
from lmmodules.data import SegmentPairs, SentencePacking

EXPERIMENTS = sorted(path.stem for path in (conf_directory() / "experiment").glob("*.yaml"))
SMALL = {
    "model.hidden_size": 32,
    "model.num_layers": 2,
    "model.num_heads": 4,
    "model.num_kv_heads": None,
    "model.head_dim": None,
    "model.intermediate_size": None,
    "model.vocab_size": None,
    "model.embedding_size": 32,
    "model.position.hidden_size": 32,
    "data.corpus": None,
    "objective.train_length": 32,
    "objective.validation_lengths": [32, 64],
    "data.max_length": 64,
    "data.batch_size": 2,
    "data.batch_tokens": None,
    "trainer.accumulate_grad_batches": 1,
    "trainer.devices": 1,
    "trainer.num_nodes": 1,
    "strategy.tensor_parallel_size": 1,
    "trainer.limit_val_batches": 1,
    "tokenizer.vocab_size": 270,
    "packing.num_duplicates": 1,
    "schedule.warmup_steps": 1,
}
"""What makes any experiment small, where it has the key."""


def prose(folder: Path) -> Path:
    """Documents of a few lines, divided by blank ones; a few of the words are in the tests' WordNet."""
    words = [
        first + middle + last
        for first in ("ba", "ke", "lo", "mi", "nu")
        for middle in "drstv"
        for last in ("a", "en", "is", "ou")
    ]
    known = ["hot dog", "green hill", "cold cat", "hot mat", "green rug"]
    lines = []
    for document in range(60):
        for line in range(6):
            start = 7 * document + 3 * line
            lines.append(
                " ".join(words[(start + offset * (line + 1)) % len(words)] for offset in range(9))
                + f" {known[start % 5]}."
            )
        lines.append("")
    path = folder / "prose.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def is_pretraining(name: str) -> bool:
    """Whether an experiment reads plain text; those on labelled rows have tests of their own."""
    return bool(compose_config("train", f"experiment={name}").data._target_ == "lmmodules.data.CorpusDataModule")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_states_its_length_and_its_peak(name: str) -> None:
    config = compose_config("train", f"experiment={name}")
    assert isinstance(config.max_steps, int)
    assert config.optimizer.lr > 0


def test_berts_recipe_takes_another_packing() -> None:
    config = compose_config("train", "experiment=bert_base")
    own = SegmentPairs(num_token_types=2, num_duplicates=10, short_sequence_probability=0.1)
    assert vars(instantiate(config.packing)) == vars(own)
    assert config.objective.next_sentence
    config = compose_config("train", "experiment=bert_base", "packing=sentences")
    assert isinstance(instantiate(config.packing), SentencePacking)
    assert not config.objective.next_sentence


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if is_pretraining(name)])
def test_takes_a_step(name: str, tmp_path: Path, tiny_wordnet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMM_WORDNET", str(tiny_wordnet))
    config = compose_config("train", f"experiment={name}")
    overrides = [
        f"{key}={'null' if value is None else value}"
        for key, value in SMALL.items()
        if OmegaConf.select(config, key.rpartition(".")[0]) is not None
        and key.rpartition(".")[2] in OmegaConf.select(config, key.rpartition(".")[0])
    ]
    if config.model.get("max_length") is not None:
        overrides.append("model.max_length=64")
    if str(config.tokenizer._target_).endswith("WordPiece"):
        overrides.append("tokenizer.vocab_size=120")  # a piece for everything that this text holds
    run = compose(
        f"experiment={name}",
        *overrides,
        f"data.path={prose(tmp_path)}",
        'data.document_separator=""',
        "data.validation_fraction=0.2",
        "max_steps=2",
        "validate_every_steps=2",
        "trainer.accelerator=cpu",
        "precision=float32",
        "callbacks.progress=null",
        f"paths.cache_dir={tmp_path / 'cache'}",
        directory=str(tmp_path / "run"),
    )
    summary = run.fit()
    if torch.distributed.is_initialized():  # by a strategy for many devices, on one
        torch.distributed.destroy_process_group()
    assert summary["steps"] == 2
    assert 0 < summary["train_loss"] < 200
    assert 0 < summary["val_loss"] < 200
