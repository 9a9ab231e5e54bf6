"""What a strategy cannot spread is refused before text is read or a process is started."""

from __future__ import annotations

import pytest
from omegaconf import open_dict

from lmmodules.composition import compose_config
from lmmodules.errors import InputError
from lmmodules.fitting_parts import check, check_strategy, match_tokenizer

TENSOR = "strategy=tensor_parallel"


def told(*overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        check(compose_config("train", "max_steps=4", *overrides))
    return str(caught.value)


@pytest.mark.parametrize("strategy", ["fsdp", "tensor_parallel", "fsdp_tensor_parallel"])
def test_an_optimizer_that_needs_whole_matrices(strategy: str) -> None:
    assert told("optimizer=adafactor", f"strategy={strategy}", "data.path=nowhere") == (
        "`optimizer=adafactor` needs whole parameters, since torch cannot take its steps on parts, but FSDP and tensor "
        "parallelism spread them; use `optimizer=adamw` or `strategy=ddp`"
    )
    check(compose_config("train", "max_steps=4", "optimizer=adafactor", "strategy=ddp"))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["model.num_heads=1"], "`num_heads` must be a multiple of `strategy.tensor_parallel_size` (2), but is 1"),
        (["model.num_kv_heads=1"], "`num_kv_heads` must be a multiple of `strategy.tensor_parallel_size` (2)"),
        (["model.intermediate_size=33"], "but is 33; use `model.intermediate_size=34`"),
        (["model.vocab_size=301"], "but is 301; use `model.vocab_size=302`"),
        (["strategy.tensor_parallel_size=3"], "(3), but is 4; use `model.num_heads=6`"),
        (["model=hugging_face", "model.name=x"], "`strategy=tensor_parallel` needs a `Transformer`, whose matrices"),
    ],
)
def test_sizes_that_ranks_cannot_share(overrides: list[str], sentence: str) -> None:
    assert sentence in told("model=decoder_tiny", TENSOR, *overrides)
    mesh = ["strategy=fsdp_tensor_parallel"]
    assert sentence in told("model=decoder_tiny", *mesh, *overrides)


def test_a_vocabulary_that_the_tokenizer_settles() -> None:
    config = compose_config("train", "max_steps=4", "model=decoder_tiny", TENSOR)
    check(config)
    with open_dict(config):
        config.model.vocab_size = 301
    with pytest.raises(InputError, match=r"use `model\.vocab_size=302`"):
        check_strategy(config)


class TestAnotherTokenizer:
    """What an experiment says of its own tokenizer goes with it."""

    def settled(self, *overrides: str) -> dict[str, object]:
        config = compose_config("train", "max_steps=4", *overrides)
        match_tokenizer(config, overrides)
        return dict(config.tokenizer)

    @pytest.mark.parametrize("experiment", ["glue_rte", "p_tuning_lama", "roberta", "bert_base", "cline"])
    @pytest.mark.parametrize(
        "choice",
        [
            {"tokenizer": "checkpoint", "tokenizer.path": "runs/mine"},
            {"tokenizer": "hub", "tokenizer.name": "gpt2"},
            {"tokenizer": "wordpiece", "tokenizer.vocab_size": 300},
        ],
        ids=lambda choice: choice["tokenizer"],
    )
    def test_takes_the_place_of_that_of_an_experiment(self, experiment: str, choice: dict[str, object]) -> None:
        overrides = [f"{name}={value}" for name, value in choice.items()]
        alone = self.settled(*overrides)
        found = self.settled(f"experiment={experiment}", *overrides)
        assert found.keys() == alone.keys()
        for name, value in choice.items():
            assert found.get(name.partition(".")[2], value) == value

    def test_keeps_what_it_knows(self) -> None:
        assert self.settled("experiment=roberta", "tokenizer=wordpiece")["vocab_size"] == 2048

    def test_what_the_command_line_says_is_not_left_out_silently(self) -> None:
        with pytest.raises(
            InputError, match=r"`tokenizer\.vocab_size` must be left out, since `tokenizer=.*checkpoint"
        ):
            self.settled(
                "experiment=roberta", "tokenizer=checkpoint", "tokenizer.path=runs/mine", "tokenizer.vocab_size=9"
            )

    def test_what_no_tokenizer_knows_stays_to_be_refused(self) -> None:
        assert "vocab_sise" in self.settled("+tokenizer.vocab_sise=9")
