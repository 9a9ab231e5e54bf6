"""That ours and each peer compute the same, at sizes a test can afford, and that it is noticed when they do not."""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import training
from benchmarks.__main__ import main
from benchmarks.measurement import measure
from benchmarks.processes import OwnProcess, answer
from benchmarks.training import Sizes
from benchmarks.workload import choose
from benchmarks.workloads.alibi_attention import AlibiAttention
from benchmarks.workloads.alibi_step import LEARNED, AlibiStep
from benchmarks.workloads.causal_lm_step import CausalLMStep
from benchmarks.workloads.cline_views import NUM_BATCHES, ClineViews, no_wordnet
from benchmarks.workloads.coco_lm_step import CocoLMStep
from benchmarks.workloads.fim import FimTransform, decode_cut_encode
from benchmarks.workloads.generation import Generation
from benchmarks.workloads.gpu_step import GPUStep
from benchmarks.workloads.keystrokes import PSM, Keystrokes
from benchmarks.workloads.masked_lm_step import MaskedLMStep
from benchmarks.workloads.masking import MaskingTransform
from benchmarks.workloads.p_tuning_step import PTuningStep
from benchmarks.workloads.tokenising import Tokenising
from benchmarks.workloads.trainer_overhead import BARE, TrainerOverhead
from lmmodules import CorpusDataModule, Transformer
from lmmodules.data import ByteLevelBPE
from lmmodules.data.fim_sentinels import Sentinels

TINY = Sizes(hidden_size=32, num_layers=2, num_heads=2)
VOCAB = 300


@pytest.fixture(autouse=True)
def small_corpus(monkeypatch: pytest.MonkeyPatch, texts: Path) -> None:
    def corpus(vocab_size, length, batch_size, transform=None, special_tokens=()):
        recipe = ByteLevelBPE(vocab_size=min(vocab_size, VOCAB), special_tokens=special_tokens)
        options = {"path": texts, "max_length": length, "batch_size": batch_size}
        return CorpusDataModule(tokenizer=recipe, transform=transform, **options).prepare()

    for name in (
        "masked_lm_step", "causal_lm_step", "alibi_step", "cline_views", "coco_lm_step", "gpu_step", "masking", "fim",
        "tokenising",
    ):  # fmt: skip
        monkeypatch.setattr(f"benchmarks.workloads.{name}.corpus", corpus)


@pytest.fixture(autouse=True)
def quiet_transformers():
    pytest.importorskip("transformers").logging.set_verbosity_error()


def masked_lm() -> MaskedLMStep:
    return MaskedLMStep(sizes=TINY, length=16, batch_size=4)


def causal_lm() -> CausalLMStep:
    return CausalLMStep(sizes=TINY, length=16, batch_size=4)


def gpu_step() -> GPUStep:
    sizes = {"tokens": 64, "causal_length": 16, "masked_length": 16, "vocab_size": VOCAB, "roberta_sizes": TINY}
    return GPUStep(device="cpu", compiled=False, networks={"a network": TINY}, **sizes)


AGREEMENTS = {
    "gpt2 of the GPU's case": lambda: gpu_step().agreement_with_gpt2(TINY),
    "roberta of the GPU's case": lambda: gpu_step().agreement_with_roberta(),
    "roberta": lambda: masked_lm().agreement(VOCAB),
    "gpt2": lambda: causal_lm().agreement_with_gpt2(VOCAB),
    "small gpt": lambda: causal_lm().agreement_with_small_gpt(VOCAB),
    "bloom": lambda: AlibiStep(sizes=TINY, tokens=64).agreement(VOCAB, 16),
    "two models": lambda: CocoLMStep(sizes=TINY, length=16, batch_size=4).agreement(VOCAB),
    "fill-in-the-middle": lambda: FimTransform(length=64, batch_size=2).agreement(VOCAB, 0.9),
    "peft": lambda: PTuningStep(sizes=TINY, prompt=4, length=12, batch_size=4).agreement(VOCAB),
    "a matrix of distances": lambda: AlibiAttention(batch_size=1, num_heads=3).agreement(70),
    "no session": lambda: Keystrokes(sizes=TINY, vocab_size=40, prefix=9, keys=4).agreement(11),
    "generation": lambda: Generation(sizes=TINY, prompt_tokens=5, new_tokens=7).agreement(VOCAB, 2),
}


@pytest.mark.parametrize("peer", AGREEMENTS)
def test_ours_and_the_peer_compute_the_same(peer: str) -> None:
    if peer == "peft":
        pytest.importorskip("peft")
    found = AGREEMENTS[peer]()
    kinds = (["loss", "largest gradient"], ["loss"], ["largest element", "largest gradient"])
    assert [one.what for one in found] in (*kinds, ["share of tokens"], ["share of keys"])
    assert all(one.holds for one in found), found


def test_litgpt_computes_the_same() -> None:
    pytest.importorskip("litgpt")
    writing = Generation(sizes=TINY, prompt_tokens=5, new_tokens=7)
    found = causal_lm().agreement_with_litgpt(VOCAB) + writing.agreement_with_litgpt(VOCAB)
    assert [one.what for one in found] == ["loss", "largest gradient", "share of tokens"]
    assert all(one.holds for one in found), found


@pytest.mark.parametrize("size", ["loss", "gradient"])
def test_a_difference_is_noticed(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    workload = causal_lm()
    plain = workload.our_gpt2

    def changed(objective):
        if size == "loss":
            objective.backbone.final_norm.weight.data *= 1.1
        else:  # the loss stays; what is learned does not
            objective.backbone.blocks[0].mlp.up.weight.register_hook(lambda gradient: 1.01 * gradient)
        return objective

    monkeypatch.setattr(CausalLMStep, "our_gpt2", lambda self, *where: changed(plain(*where)))
    loss, gradient = workload.agreement_with_gpt2(VOCAB)
    assert loss.holds == (size != "loss")
    assert not gradient.holds


@pytest.mark.parametrize(
    "build",
    [
        lambda: masked_lm().our_step(VOCAB, 0.1, 0.1),
        lambda: masked_lm().their_step(VOCAB, 0.1, fused=True),
        lambda: causal_lm().small_gpt_step(VOCAB),
        lambda: causal_lm().gpt2_step(VOCAB, "gelu_new", partial(torch.optim.AdamW, lr=1e-3)),
    ],
    ids=["ours", "roberta", "small gpt", "gpt2"],
)
def test_a_step_changes_every_weight(build, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for name in ("our_step", "peer_step"):
        original = getattr(training, name)
        for module in ("masked_lm_step", "causal_lm_step", "alibi_step"):
            wrapped = lambda model, *rest, original=original: (seen.append(model), original(model, *rest))[1]  # noqa: E731
            monkeypatch.setattr(f"benchmarks.workloads.{module}.{name}", wrapped)
    step = build()
    [model] = seen
    before = [parameter.clone() for parameter in model.parameters()]
    step()
    step()
    changed = [not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)]
    assert all(changed)
    assert model.training


def test_the_steps_of_a_gpu_run_on_a_processor_too() -> None:
    workload = gpu_step()
    cases = list(workload.cases({}))
    assert [case.name for case in cases] == ["a network", "a network, ALiBi", "RoBERTa-base, masked"]
    for case in cases:
        assert case.device == "cpu"
        for candidate in case.candidates:
            if candidate.name != "litgpt" or importlib.util.find_spec("litgpt"):
                step = candidate.build()
                step()
                step()


def test_without_a_gpu_its_steps_are_not_measured_and_nothing_is_stored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    stored: list[object] = []
    monkeypatch.setattr("benchmarks.results.store", stored.append)
    monkeypatch.setattr("benchmarks.speed_page.PAGE", tmp_path / "docs" / "speed.md")
    (tmp_path / "docs").mkdir()
    with monkeypatch.context() as environment:
        for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "OMP_WAIT_POLICY", "TRANSFORMERS_VERBOSITY"):
            environment.setenv(name, "1")
        main(["gpu_step", "--rounds", "5", "--store", "--threads", "1"])
    assert "no GPU here" in capsys.readouterr().out
    assert stored == []


def test_a_wrong_loss_of_one_view_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    workload = CocoLMStep(sizes=TINY, length=16, batch_size=4)
    plain = CocoLMStep.objective

    def other(self, peer, **options):
        objective = plain(self, peer, **options)
        objective.scl_weight = 1.1
        return objective

    monkeypatch.setattr(CocoLMStep, "objective", other)
    assert not workload.agreement(VOCAB)[0].holds


def test_the_loop_moves_as_many_middles_as_it_is_told() -> None:
    tokenizer, batches = FimTransform(length=64, batch_size=2).blocks(VOCAB)
    middle = Sentinels.of(tokenizer).middle
    moved = [
        sum(int((decode_cut_encode(tokenizer, *batch, rate) == middle).sum()) for batch in batches) for rate in (0, 1)
    ]
    assert moved[0] == 0 < moved[1]


def test_a_key_costs_what_its_order_says(monkeypatch: pytest.MonkeyPatch) -> None:
    workload = Keystrokes(sizes=TINY, vocab_size=40, prefix=9, keys=4)
    read: list[int] = []
    forward = Transformer.forward
    monkeypatch.setattr(
        Transformer, "forward", lambda self, ids, **rest: (read.append(ids.shape[1]), forward(self, ids, **rest))[1]
    )
    steps = {one.name: one.build() for one in next(workload.cases({"length": (11,)})).candidates}
    for step in steps.values():
        step()  # reads what stands there before the first key
    counts = {}
    for name, step in steps.items():
        read.clear()
        step()
        counts[name] = list(read)
    typed = 9 + 11 + 4
    assert counts["lmmodules"][1:] == [1, 1, 1]
    assert counts[PSM][1:] == [1 + 11 + 2] * 3
    assert counts["no session"] == [typed + key for key in (1, 2, 3, 4)]


def test_masking_selects_as_much_as_the_collator() -> None:
    for whole_word in (False, True):
        found = MaskingTransform().agreement(VOCAB, whole_word, 16, 64)
        assert all(one.holds for one in found if one.what == "share selected"), found


def test_the_loop_writes_the_same_views(monkeypatch: pytest.MonkeyPatch, tiny_wordnet: Path) -> None:
    monkeypatch.setenv("LMM_WORDNET", str(tiny_wordnet))
    workload = ClineViews(length=48, batch_size=4)
    assert workload.agreement(VOCAB)[0].holds
    views = workload.views(VOCAB)
    batches = [views[number] for number in range(NUM_BATCHES)]
    for view, label in (("positive", 1), ("negative", 2)):
        assert sum(int((batch[f"{view}_labels"] == label).sum()) for batch in batches) > 20

    plain = type(views.transform).bind
    fewer = lambda self, tokenizer: plain(setattr(self, "shares", (0.1, 0.1)) or self, tokenizer)  # noqa: E731
    monkeypatch.setattr(type(views.transform), "bind", fewer)
    assert not workload.agreement(VOCAB)[0].holds


def test_workers_make_the_views_and_their_time_counts(monkeypatch: pytest.MonkeyPatch, tiny_wordnet: Path) -> None:
    monkeypatch.setenv("LMM_WORDNET", str(tiny_wordnet))
    step = ClineViews(length=48, batch_size=4).worker_step(VOCAB)
    told = [step() for _ in range(20)]
    assert all(seconds is not None and seconds.wall > 0 and seconds.processor > 0 for seconds in told)


def test_views_are_not_measured_without_a_wordnet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMM_WORDNET", "nowhere")
    chosen = choose("cline_views")
    found = measure(chosen, chosen.cases()[0], rounds=1, turn_seconds=0.1)
    assert no_wordnet() is not None
    assert [result.skipped for result in found.candidates] == [no_wordnet()] * 2


def test_tokenising_writes_the_same_tokens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("benchmarks.workloads.tokenising.default_cache_dir", lambda: tmp_path)
    workload = Tokenising(vocab_size=VOCAB)
    assert workload.agreement(0.05) == workload.agreement(0.05)
    assert workload.agreement(0.05)[0].holds
    [file] = (tmp_path / "benchmarks").iterdir()
    assert sum(len(text.encode()) for text in workload.texts(0.05)) == pytest.approx(50_000, abs=4)
    assert file.suffix == ".jsonl"
    assert set(answer(workload.our_step(0.05), "step")) == {"wall", "processor"}


def test_the_trainer_and_the_bare_loop_take_as_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    workload = TrainerOverhead(small_steps=12)
    counts = []
    plain = type(workload.objective()).losses
    monkeypatch.setattr(
        "lmmodules.objectives.causal_lm.CausalLM.losses", lambda self, batch: (counts.append(1), plain(self, batch))[1]
    )
    [case] = [case for case in workload.cases({}) if case.name == "a small network"]
    taken = {}
    for candidate in case.candidates:
        counts.clear()
        told = candidate.build()()
        assert told is not None
        assert told.wall > 0
        taken[candidate.name] = len(counts)
    assert set(taken.values()) == {12}, taken
    assert BARE in taken


@pytest.mark.slow
def test_a_process_of_its_own_answers_what_it_is_asked() -> None:
    chosen = choose("alibi_step", {"vocab": [300], "length": [32]})
    with OwnProcess(chosen, "length 32, vocabulary 300", LEARNED) as process:
        seconds = process()
        assert seconds.wall > 0
        assert process.operations() > 1e9
        assert 1 < process.added_memory() < 1000
    with OwnProcess(chosen, "length 32, vocabulary 300", "nobody") as process, pytest.raises(RuntimeError):
        process()
