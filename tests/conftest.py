from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# One thread per process: the tests are many and small, and so are the machines they run on.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Prepared corpora of the tests stay out of the user's cache, and are shared between them."""
    os.environ["LMM_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _ranks_of_one_test_are_not_those_of_the_next() -> Iterator[None]:
    """A run within this process leaves its port in the environment, and listens there as long as the process lives."""
    yield
    for name in RANK_VARIABLES:
        os.environ.pop(name, None)


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small text files that nobody prepared."""
    folder = tmp_path_factory.mktemp("texts")
    subjects, verbs = ("the cat", "a dog", "my aunt", "this river"), ("sees", "likes", "follows", "forgets")
    for number in range(3):
        lines = [
            f"{subjects[(i * 7 + number) % 4]} {verbs[(i * 3 + i // 4) % 4]} {subjects[(i + i // 5) % 4]} {i % 11}."
            for i in range(400)
        ]
        (folder / f"{number}.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def largest_tensor() -> type:
    """A mode of PyTorch whose `elements` are those of the largest tensor made in it."""
    mode: type = runpy.run_path(str(Path(__file__).parent / "largest_tensor.py"))["LargestTensor"]
    return mode


@pytest.fixture(scope="session")
def write_wordnet() -> Callable[..., Path]:
    """Writes a WordNet of a few words into a directory."""
    write: Callable[..., Path] = runpy.run_path(str(Path(__file__).parent / "data/tiny_wordnet.py"))["write"]
    return write


@pytest.fixture(scope="session")
def tiny_wordnet(write_wordnet: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WordNet of a few words."""
    return write_wordnet(tmp_path_factory.mktemp("wordnet"))


@pytest.fixture(scope="session")
def tiny(texts: Path) -> list[str]:
    """Overrides that make any run small."""
    return [
        "model=decoder_tiny",
        "trainer.accelerator=cpu",
        f"data.path={texts}",
        "data.max_length=32",
        "data.batch_size=4",
        "data.validation_fraction=0.34",
        "tokenizer.vocab_size=300",
        "log_every_steps=1",
        "trainer.limit_val_batches=2",
    ]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Runs a command of the package in an empty directory, as a user would."""

    def run(
        name: str,
        *arguments: str,
        timeout: float = 300,
        cwd: Path = tmp_path,
        environment: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        variables = {
            key: value
            for key, value in os.environ.items()
            if key not in RANK_VARIABLES
            and not key.startswith(("SLURM_", "TORCHELASTIC_", "PL_", "HYDRA_", "LMM_TRACE"))
        }
        return subprocess.run(
            [sys.executable, "-m", f"lmmodules.{name}", *arguments],
            cwd=cwd,
            env=variables | (environment or {}),
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )

    return run


@pytest.fixture
def gguf_with_tokenizer(tmp_path: Path) -> Callable[..., Path]:
    """Writes a GGUF file that holds a byte-level tokenizer, and no weights; given none, not even that."""
    gguf = pytest.importorskip("gguf")
    pytest.importorskip("transformers")

    def write(tokenizer: Any = None) -> Path:
        folder = tmp_path / "quantised"
        folder.mkdir(exist_ok=True)
        writer = gguf.GGUFWriter(folder / "tiny.gguf", "llama")
        if tokenizer is not None:
            model = json.loads(tokenizer.backend.to_str())["model"]
            tokens = sorted(ids := tokenizer.backend.get_vocab(), key=ids.get)
            writer.add_tokenizer_model("gpt2")
            writer.add_token_list(tokens)
            writer.add_token_types([1] * len(tokens))
            writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
            writer.add_bos_token_id(0)
            writer.add_eos_token_id(2)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return folder / "tiny.gguf"

    return write
