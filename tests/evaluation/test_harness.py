"""The evaluation harness gets from a model in memory what it gets from the same model through transformers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lmmodules import CausalLM, Transformer
from lmmodules.data import ByteLevelBPE, TextFiles, Tokenizer
from lmmodules.errors import InputError
from lmmodules.evaluation.harness import Harness, _figures, _within, _write, harness_model
from lmmodules.models import Learned
from lmmodules.objectives import Classification

LONGEST = 24
QUESTIONS = [
    {"question": "the cat", "choices": ["sees a dog", "likes my aunt 3."], "answer": 0},
    {
        "question": "a dog and my aunt and this river and the cat and a dog and my aunt",
        "choices": ["7.", "."],
        "answer": 1,
    },
    {"question": "", "choices": ["the cat", "a dog"], "answer": 0},
]
HEAD = """\
task: own_{kind}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
fewshot_split: test
"""
TASKS = {
    "choice": """\
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list:
  - metric: acc
  - metric: acc_norm
""",
    "text": """\
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}} {{question}}{{choices[0]}}"
metric_list:
  - metric: word_perplexity
  - metric: bits_per_byte
""",
    "writing": """\
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[0]}}"
generation_kwargs:
  until: ["."]
  max_gen_toks: 9
  do_sample: false
metric_list:
  - metric: exact_match
""",
}


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder of tasks as users write them, each with data of its own."""
    pytest.importorskip("lm_eval")
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, QUESTIONS)))
    for kind, rest in TASKS.items():
        (folder / f"{kind}.yaml").write_text(HEAD.format(kind=kind, data=folder / "questions.jsonl") + rest)
    return folder


@pytest.fixture(scope="module")
def tokenizer(texts: Path) -> Tokenizer:
    return ByteLevelBPE(vocab_size=300).train(TextFiles(texts))


@pytest.fixture
def objective() -> CausalLM:
    """GPT-2's kind of network, which knows few positions."""
    torch.manual_seed(0)
    backbone = Transformer(
        vocab_size=300,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        causal=True,
        position=Learned(LONGEST, 16),
        activation="gelu_tanh",
        initializer_std=0.4,
    )
    return CausalLM(backbone).eval()


def instances(kind: str, *arguments: tuple[Any, ...]) -> list[Any]:
    instance = pytest.importorskip("lm_eval.api.instance").Instance
    return [instance(kind, {}, given, number) for number, given in enumerate(arguments)]


@pytest.fixture
def through_transformers(objective: CausalLM, tokenizer: Tokenizer) -> Any:
    """The same weights, as the harness knows models."""
    transformers = pytest.importorskip("transformers")
    models = pytest.importorskip("lm_eval.models.huggingface")
    from lmmodules.models.hugging_face import to_transformers_state_dict

    config = transformers.GPT2Config(
        vocab_size=300, n_positions=LONGEST, n_embd=16, n_layer=2, n_head=2, bos_token_id=2, eos_token_id=2
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    state = to_transformers_state_dict("gpt2", objective.backbone, objective.head)
    model.load_state_dict(state, strict=False)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend, eos_token="</s>", bos_token="</s>", pad_token="<pad>"
    )
    return models.HFLM(pretrained=model, tokenizer=fast, batch_size=2, device="cpu", max_length=LONGEST)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_likelihoods_are_those_of_transformers(
    objective: CausalLM, tokenizer: Tokenizer, through_transformers: Any, batch_size: int
) -> None:
    ours = harness_model(objective, tokenizer, batch_size=batch_size)
    asked = [(each["question"], " " + choice) for each in QUESTIONS for choice in ("sees a dog.", "9", "the cat 3")]
    found, expected = (
        model.loglikelihood(instances("loglikelihood", *asked), disable_tqdm=True)
        for model in (ours, through_transformers)
    )
    assert [right for _, right in found] == [right for _, right in expected]
    assert [nats for nats, _ in found] == pytest.approx([nats for nats, _ in expected], rel=1e-4)
    texts = [("the cat sees a dog. " * 12,), ("9",), ("my aunt",)]
    found, expected = (
        model.loglikelihood_rolling(instances("loglikelihood_rolling", *texts), disable_tqdm=True)
        for model in (ours, through_transformers)
    )
    assert found == pytest.approx(expected, rel=1e-4)


def test_what_is_written_is_what_transformers_write(
    objective: CausalLM, tokenizer: Tokenizer, through_transformers: Any
) -> None:
    ours = harness_model(objective, tokenizer, batch_size=2)
    brief, long = {"until": ["."], "max_gen_toks": 9, "do_sample": False}, {"until": [], "max_gen_toks": 5}
    asked = [(each["question"] or "a", brief) for each in QUESTIONS] + [("the cat", long), ("this river", brief)]
    found, expected = (
        model.generate_until(instances("generate_until", *asked), disable_tqdm=True)
        for model in (ours, through_transformers)
    )
    assert found == expected
    assert len(set(found)) > 2


def test_a_command_of_python_runs_tasks_of_ones_own(objective: CausalLM, tokenizer: Tokenizer, tasks: Path) -> None:
    found = Harness(["own_choice", "own_text", "own_writing"], include_path=tasks)(objective, tokenizer)
    assert {"own_choice/acc", "own_choice/acc_norm", "own_text/word_perplexity", "own_text/bits_per_byte"} <= set(found)
    assert "own_choice/acc_stderr" in found
    assert 0 <= found["own_writing/exact_match"] <= 1
    fewer = Harness(["own_choice"], include_path=tasks, limit=1)(objective, tokenizer)
    assert fewer["own_choice/acc"] in (0.0, 1.0)


def test_examples_stand_before_a_question(
    objective: CausalLM, tokenizer: Tokenizer, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    encode = Tokenizer.encode
    monkeypatch.setattr(Tokenizer, "encode", lambda self, text: read.append(text) or encode(self, text))
    for number in (0, 2):
        read.clear()
        Harness(["own_choice"], include_path=tasks, num_fewshot=number, limit=1)(objective, tokenizer)
        assert {text.count("\n\n") for text in read} == {number}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"tasks": []},
            "`evaluation.tasks` must name tasks of the harness, but there are none; use",
        ),
        ({"batch_size": 0}, "`batch_size` must be .*use `evaluation.batch_size=16`"),
        ({"num_fewshot": -1}, "`num_fewshot` must be .*use `evaluation.num_fewshot=0`"),
        ({"limit": 0}, "`limit` must be .*use `evaluation.limit=null`"),
    ],
)
def test_wrong_options(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Harness(**{"tasks": ["own_choice"], **change})


def test_a_task_that_does_not_exist(objective: CausalLM, tokenizer: Tokenizer, tasks: Path) -> None:
    with pytest.raises(InputError, match=r"`evaluation\.tasks` must be tasks of the harness, but `no_such` is none"):
        Harness(["own_choice", "no_such"], include_path=tasks)(objective, tokenizer)


def test_a_task_may_be_one_name(objective: CausalLM, tokenizer: Tokenizer, tasks: Path) -> None:
    assert "own_choice/acc" in Harness("own_choice", include_path=tasks)(objective, tokenizer)


def test_a_context_of_white_space_alone_is_none(objective: CausalLM, tokenizer: Tokenizer) -> None:
    pytest.importorskip("lm_eval")
    ours = harness_model(objective, tokenizer)
    blank, none = (ours.loglikelihood(instances("loglikelihood", (context, "the cat")))[0] for context in (" ", ""))
    (with_blank,) = ours.loglikelihood(instances("loglikelihood", ("", " the cat")))
    assert blank == with_blank != none


def test_a_continuation_of_nothing(objective: CausalLM, tokenizer: Tokenizer) -> None:
    pytest.importorskip("lm_eval")
    with pytest.raises(InputError, match="continuations of at least one token, but one has none"):
        harness_model(objective, tokenizer).loglikelihood(instances("loglikelihood", ("the cat", "")))


def test_a_continuation_beyond_the_positions(objective: CausalLM, tokenizer: Tokenizer) -> None:
    asked = instances("loglikelihood", ("the cat", " sees a dog" * 30))
    with pytest.raises(InputError, match=f"within the {LONGEST} positions of the model, but one has"):
        harness_model(objective, tokenizer).loglikelihood(asked, disable_tqdm=True)


def test_a_model_that_sees_both_sides(tokenizer: Tokenizer) -> None:
    pytest.importorskip("lm_eval")
    from lmmodules import MaskedLM

    model = MaskedLM(Transformer(vocab_size=300, hidden_size=16, num_layers=1, num_heads=2, causal=False))
    with pytest.raises(InputError, match="needs a causal language model, but the checkpoint holds a `MaskedLM`"):
        harness_model(model, tokenizer)


def test_an_objective_that_does_not_write(objective: CausalLM, tokenizer: Tokenizer) -> None:
    model = Classification(objective.backbone)
    with pytest.raises(InputError, match="`objective=causal_lm` or its kind, but this one is of `Classification`"):
        Harness(["own_choice"])(model, tokenizer)
    pytest.importorskip("lm_eval")
    with pytest.raises(InputError, match="needs a causal language model, but the checkpoint holds a `Classification`"):
        harness_model(model, tokenizer)


class TestPieces:
    """What needs no harness to be tried."""

    @pytest.mark.parametrize(
        ("limit", "size", "kept"), [(None, 9, 9), (10, 9, 9), (10, 8, 8), (6, 9, 5), (3, 9, 2), (2, 9, 1)]
    )
    def test_a_context_loses_its_beginning(self, limit: int | None, size: int, kept: int) -> None:
        context, continuation = _within(limit, list(range(size)), [7, 8])
        assert continuation == [7, 8]
        assert context == list(range(size))[-kept:]
        if limit is not None:
            assert len(context) + len(continuation) - 1 <= limit, "the last token is not read"

    def test_metrics_by_the_names_of_the_harness(self) -> None:
        metrics = {"alias": "A", "acc,none": 0.5, "acc_stderr,none": 0.1, "em,strict": 1, "em_stderr,strict": "N/A"}
        assert _figures({"a": metrics}) == {"a/acc": 0.5, "a/acc_stderr": 0.1, "a/em (strict)": 1.0}

    @pytest.mark.parametrize("name", ["max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"])
    def test_the_length_of_an_answer_has_several_names(
        self, objective: CausalLM, tokenizer: Tokenizer, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert asked_for(objective, tokenizer, {name: 7}, monkeypatch)["max_new_tokens"] == 7

    @pytest.mark.parametrize(
        ("options", "greedy", "temperature"),
        [
            ({}, True, 0.0),
            ({"do_sample": False, "temperature": 0.7}, True, 0.7),
            ({"temperature": 0.7}, False, 0.7),
            ({"do_sample": True, "temperature": 0.7, "top_k": 0, "top_p": 0.9}, False, 0.7),
        ],
    )
    def test_how_an_answer_is_drawn(
        self,
        objective: CausalLM,
        tokenizer: Tokenizer,
        options: dict[str, Any],
        greedy: bool,
        temperature: float,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        asked = asked_for(objective, tokenizer, options, monkeypatch)
        assert (asked["greedy"], asked["temperature"]) == (greedy, temperature)
        assert (asked["top_k"], asked["top_p"]) == (None, options.get("top_p"))
        assert asked["max_new_tokens"] == LONGEST - 1, "256 are more than the positions leave"
        assert asked["stop_ids"] == [tokenizer.eos_id]

    def test_a_prompt_leaves_room_for_its_answer(self, objective: CausalLM, tokenizer: Tokenizer) -> None:
        prompts = [tokenizer.encode("the cat sees a dog. " * 20), tokenizer.encode("a dog")]
        options = {"max_gen_toks": 5, "until": "."}
        written = _write(objective, tokenizer, prompts, options)
        assert written == [_write(objective, tokenizer, [prompt[-19:]], options)[0] for prompt in prompts]
        assert all("." not in answer for answer in written)


def asked_for(
    objective: CausalLM, tokenizer: Tokenizer, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """What the generator is given for an answer."""
    asked: dict[str, Any] = {}

    def write(model: Any, prompts: Any, decode: Any, stops: Any, **rest: Any) -> list[str]:
        asked.update(rest)
        return [""]

    monkeypatch.setattr("lmmodules.evaluation.harness.generate_until", write)
    _write(objective, tokenizer, [[5]], options)
    return asked


def test_without_the_harness(objective: CausalLM, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("lm_eval", "lm_eval.api.model"):
        monkeypatch.setitem(sys.modules, module, None)
    sentence = r"`evaluation=harness` needs `lm_eval`: pip install 'lmmodules\[harness\]'"
    with pytest.raises(InputError, match=sentence):
        harness_model(objective, tokenizer)
    with pytest.raises(InputError, match=sentence):
        Harness(["own_choice"])(objective, tokenizer)


@pytest.mark.slow
def test_a_checkpoint(command: Callable[..., Any], tiny: list[str], tasks: Path, tmp_path: Path) -> None:
    trained = command("train", *tiny, "max_steps=2", "paths.output_dir=here")
    assert trained.returncode == 0, trained.stderr
    asked = ["checkpoint=here", "evaluation=harness", f"evaluation.include_path={tasks}", "paths.output_dir=scored"]
    done = command("evaluate", *asked, "evaluation.tasks=[own_choice]")
    assert done.returncode == 0, done.stderr
    assert "own_choice/acc" in done.stdout
    assert "own_choice/acc" in json.loads((tmp_path / "scored/evaluation.json").read_text())
    wrong = command("evaluate", *asked, "evaluation.tasks=[no_such]")
    assert wrong.returncode == 2
    assert "`no_such` is none" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    useless = command("evaluate", *asked, "evaluation.tasks=[own_choice]", "data.path=questions.txt")
    assert useless.returncode == 2
    assert (
        "`data.path` must be left out where an evaluation brings its own text, but `data.path=questions"
        in useless.stderr
    )
