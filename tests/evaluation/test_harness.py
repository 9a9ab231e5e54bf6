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
from lmmodules.evaluation.harness import Harness, harness_model
from lmmodules.models import Learned

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
    with pytest.raises(InputError, match=r"`evaluation\.tasks` must be tasks of the harness, but no_such is none"):
        Harness(["own_choice", "no_such"], include_path=tasks)(objective, tokenizer)


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
    assert "no_such is none" in wrong.stderr
    assert "Traceback" not in wrong.stderr
