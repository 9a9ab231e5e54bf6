"""P-tuning: what is replaced, where the loss lies, what is trained, and what is folded away."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from lmmodules.errors import InputError
from lmmodules.evaluation.generation import generate
from lmmodules.models import Learned, Transformer
from lmmodules.models.prompt_files import prompts_as_tokens
from lmmodules.objectives.answers import among, answer_nats, choice_hinge, class_logits
from lmmodules.objectives.p_tuning import PTuning, replace_embeddings
from lmmodules.objectives.prompted_tasks import ChoicePTuning, VerbalizedPTuning

V, T = 30, 9


def backbone(causal: bool = True, **sizes) -> Transformer:
    torch.manual_seed(0)
    return Transformer(
        vocab_size=V, hidden_size=16, num_layers=2, num_heads=2, causal=causal, initializer_std=0.3, **sizes
    )


def build(causal: bool = True, **arguments) -> PTuning:
    return PTuning(backbone(causal), ["a"], [3], **{"encoder": "embeddings", **arguments})


def batch(causal: bool = True) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    ids = torch.randint(5, V, (2, T))
    prompts = torch.full((2, T), -1)
    prompts[:, 0], prompts[:, 1] = 0, 1
    labels = torch.full((2, T), -100)
    mask = torch.ones(2, T, dtype=torch.long)
    mask[1, 6:] = 0
    for row, place in ((0, 8), (1, 5)):
        prompts[row, place] = 2
        labels[row, place if causal else place - 1] = 7 + row
    return {
        "input_ids": ids,
        "prompt_ids": prompts,
        "labels": labels,
        "attention_mask": mask,
        "task_ids": torch.zeros(2, dtype=torch.long),
    }


def test_embeddings_are_replaced_as_a_double_loop_would() -> None:
    given, places = torch.randn(2, 5, 4), torch.tensor([[-1, 0, 1, -1, -1], [1, -1, -1, 0, -1]])
    table = torch.randn(2, 4)
    expected = given.clone()
    for row in range(2):
        for place in range(5):
            if places[row, place] >= 0:
                expected[row, place] = table[places[row, place]]
    assert torch.equal(replace_embeddings(given, places, table), expected)


@pytest.mark.parametrize("causal", [True, False])
def test_pseudo_tokens_that_are_tokens_change_nothing(causal: bool) -> None:
    objective, data = build(causal).eval(), batch(causal)
    with torch.no_grad():
        objective.prompts.encoders[0].seeds.weight.copy_(objective.backbone.token_embedding.weight[[11, 12, 13]])
    spelt = torch.where(data["prompt_ids"] >= 0, data["prompt_ids"] + 11, data["input_ids"])
    plain = objective.backbone(spelt, attention_mask=data["attention_mask"])
    torch.testing.assert_close(objective.hidden_states(data), plain, rtol=0, atol=1e-6)


@pytest.mark.parametrize("causal", [True, False])
def test_the_loss_over_all_tokens_is_that_over_candidates_that_are_all(causal: bool) -> None:
    """The first makes no logits of its own, the second chooses among them."""
    found = []
    for candidates in ({}, {"candidate_ids": torch.arange(V)}):
        objective = build(causal, encoder="lstm").eval()
        terms = objective.losses({**batch(causal), **candidates})
        terms["loss"].sum.backward()
        gradient = objective.prompts.encoders[0].seeds.weight.grad
        found.append(
            [*(term.sum.detach() for term in terms.values()), *(term.count for term in terms.values()), gradient]
        )
        assert objective.label_share == pytest.approx(2 / (2 * T))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_the_loss_of_a_causal_model_is_at_the_last_position() -> None:
    objective, data = build().eval(), batch()
    logits = objective(data)
    expected = F.cross_entropy(torch.stack([logits[0, 8], logits[1, 5]]), torch.tensor([7, 8]), reduction="sum")
    terms = objective.losses(data)
    assert terms["loss"].sum.item() == pytest.approx(expected.item(), rel=1e-5)
    assert int(terms["loss"].count) == 2
    shifted = build(official_label_shift=True).eval()
    shifted.load_state_dict(objective.state_dict())
    expected = F.cross_entropy(torch.stack([logits[0, 7], logits[1, 4]]), torch.tensor([7, 8]), reduction="sum")
    assert shifted.losses(data)["loss"].sum.item() == pytest.approx(expected.item(), rel=1e-5)
    assert shifted.losses(data)["accuracy"].sum == terms["accuracy"].sum


def test_the_official_shift_leaves_the_last_pseudo_token_alone() -> None:
    for shift, moved in ((False, True), (True, False)):
        objective = build(official_label_shift=shift)
        objective.losses(batch())["loss"].sum.backward()
        gradient = objective.prompts.encoders[0].seeds.weight.grad
        assert (gradient[:2].abs().sum(1) > 0).all()
        assert bool(gradient[2].abs().sum() > 0) == moved
        if shift:
            assert torch.equal(gradient[2], torch.zeros(16))


def test_a_frozen_backbone_has_no_gradient_and_does_not_move() -> None:
    objective = build(optimizer=partial(torch.optim.AdamW, lr=0.1))
    before = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
    optimizer = objective.configure_optimizers()
    for _ in range(3):
        optimizer.zero_grad()
        objective.training_step(batch(), 0).backward()
        optimizer.step()
    assert all(parameter.grad is None for parameter in objective.backbone.parameters())
    for name, tensor in objective.state_dict().items():
        assert torch.equal(tensor, before[name]) == (not name.startswith("prompts"))


def test_a_tuned_backbone_learns_at_its_share_of_the_rate() -> None:
    objective = build(tune_backbone=True, backbone_lr_factor=0.1, decay_prompts=False)
    groups = {group["name"]: group for group in objective.configure_optimizers().param_groups}
    assert groups["prompts decayed"]["lr_factor"] == 1.0
    assert groups["prompts decayed"]["weight_decay"] == 0.0
    assert groups["decayed"]["lr_factor"] == groups["not decayed"]["lr_factor"] == 0.1
    assert groups["decayed"]["weight_decay"] > 0
    assert build().configure_optimizers().param_groups[0]["weight_decay"] > 0
    objective.losses(batch())["loss"].sum.backward()
    assert all(parameter.grad is not None for parameter in objective.backbone.parameters())


def test_the_head_may_be_trained_alone() -> None:
    trained = {name for name, p in build(False, tune_head=True).named_parameters() if p.requires_grad}
    assert any(name.startswith("head") for name in trained)
    assert not any(name.startswith("backbone") for name in trained)


def test_dropout_of_a_frozen_backbone_is_a_switch() -> None:
    for switch in (True, False):
        torch.manual_seed(0)
        objective = PTuning(backbone(dropout=0.5), ["a"], [3], encoder="embeddings", frozen_dropout=switch).train()
        data = batch()
        same = objective.losses(data)["loss"].sum == objective.losses(data)["loss"].sum
        assert bool(same) == (not switch)


def test_padding_and_company_change_nothing() -> None:
    objective, data = build().eval(), batch()
    together = objective.answer_logits(data)[1]
    for row, length in ((0, 9), (1, 6)):
        alone = {name: data[name][row : row + 1, :length] for name in ("input_ids", "prompt_ids", "labels")}
        torch.testing.assert_close(objective.answer_logits(alone)[1][0], together[row], rtol=0, atol=1e-5)


def test_only_candidates_may_answer() -> None:
    logits = torch.tensor([[0.0, 5.0, 1.0, 2.0]])
    assert among(logits, None).argmax() == 1
    assert among(logits, torch.tensor([0, 2, 3])).argmax() == 3
    objective, data = build().eval(), batch()
    data["candidate_ids"] = torch.tensor([7, 8])
    scored = objective.answer_logits(data)[2][:, 7:9]
    assert int(objective.losses(data)["accuracy"].sum) == int((scored.argmax(1) == torch.tensor([0, 1])).sum())


def test_several_tasks_in_a_batch_are_as_each_alone() -> None:
    objective = PTuning(backbone(), ["a", "b"], [3, 2], encoder="lstm").eval()
    data = batch()
    data["prompt_ids"][1, :2] = torch.tensor([3, 4])
    data["prompt_ids"][1, 5] = -1
    together = objective.answer_logits(data)[1]
    for row in range(2):
        alone = {name: tensor[row : row + 1] for name, tensor in data.items()}
        torch.testing.assert_close(objective.answer_logits(alone)[1][0], together[row], rtol=0, atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_folded_prompts_give_the_same_logits(causal: bool) -> None:
    objective, data = build(causal, encoder="lstm").eval(), batch(causal)
    folded = build(causal)
    state = {name: tensor for name, tensor in objective.state_dict().items() if not name.startswith("prompts")}
    folded.load_state_dict(state, strict=False)
    with torch.no_grad():
        folded.prompts.encoders[0].seeds.weight.copy_(objective.folded()["a"])
        assert torch.equal(objective.answer_logits(data)[1], folded.eval().answer_logits(data)[1])


def test_prompts_as_tokens_write_the_same_and_are_never_written() -> None:
    objective = build(encoder="lstm").eval()
    ids, prompts = [5, 6, 9, 10, 5], torch.tensor([[0, 1, -1, -1, 2]])
    data = {"input_ids": torch.tensor([ids]), "prompt_ids": prompts}
    first = objective.logits(objective.hidden_states(data))[0, -1].argmax().item()
    objective.head = prompts_as_tokens(objective.backbone, objective.head, objective.prompts().detach())
    written = generate(objective, [[V, V + 1, 9, 10, V + 2]], max_new_tokens=12, greedy=True)[0]
    assert written[0] == first
    assert max(written) < V


def test_classes_are_means_over_their_words() -> None:
    logits = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
    assert class_logits(logits, torch.tensor([[0, 2], [3, -1]])).tolist() == [[2.5, 8.0]]
    objective = VerbalizedPTuning(backbone(), ["a"], [3], encoder="embeddings").eval()
    data = {**batch(), "verbalizer": torch.tensor([[7, 9], [8, -1]]), "classes": torch.tensor([0, -100])}
    data["labels"][1] = -100
    row = objective(data)[0, 8]
    scores = torch.stack([(row[7] + row[9]) / 2, row[8]])
    assert objective.losses(data)["loss"].sum.item() == pytest.approx(
        F.cross_entropy(scores, torch.tensor(0)).item(), rel=1e-4
    )
    assert int(objective.losses(data)["loss"].count) == 1


def test_the_hinge_of_a_choice() -> None:
    nats = torch.tensor([[2.0, 2.5], [3.5, 2.0], [9.0, 9.0]])
    total, count = choice_hinge(nats[:1], torch.tensor([0]))
    assert (total.item(), int(count)) == (0.5, 1)
    assert choice_hinge(nats[1:2], torch.tensor([1]))[0].item() == 0.0
    total, count = choice_hinge(nats, torch.tensor([0, 1, -100]))
    assert (total.item(), int(count)) == (0.5, 2)


def test_a_choice_is_scored_by_its_tokens() -> None:
    objective = ChoicePTuning(backbone(), ["a"], [3], encoder="embeddings").eval()
    single = batch()
    data = {name: torch.stack([tensor[:1], tensor[:1]], 1) for name, tensor in single.items() if name != "task_ids"}
    data["labels"][0, 1, 8] = 9
    data["classes"] = torch.tensor([1])
    nats = -objective(single)[0, 8].log_softmax(-1)
    terms = objective.losses(data)
    assert terms["loss"].sum.item() == pytest.approx(max(0.0, 1 + nats[9].item() - nats[7].item()), rel=1e-4, abs=1e-5)
    assert int(terms["accuracy"].sum) == int(nats[9] < nats[7])
    labels = torch.tensor([[-100, 1, 2], [-100, -100, 0]])
    got = answer_nats(torch.zeros(3, 4), labels)
    torch.testing.assert_close(got, torch.tensor([[2.0, 1.0], [1.0, 1.0]]) * torch.tensor(4.0).log())


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(InputError, match="`official_label_shift`"):
        build(False, official_label_shift=True)
    with pytest.raises(InputError, match="`prompt_lengths`"):
        PTuning(backbone(), ["a", "b"], [3])
    with pytest.raises(InputError, match="`backbone_lr_factor`"):
        build(backbone_lr_factor=0.0)


def test_positions_count_pseudo_tokens() -> None:
    network = backbone(position=Learned(hidden_size=16, max_length=T))
    objective = PTuning(network, ["a"], [3], encoder="mlp").eval()
    assert objective(batch()).shape == (2, T, V)
