"""Causal and masked language models against their definitions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lmmodules.batch import IGNORED, CausalBatch, MaskedBatch
from lmmodules.errors import InputError
from lmmodules.models import LanguageModelHead, Transformer
from lmmodules.objectives import CausalLM, LanguageModel, MaskedLM

B, T, D, V, LAYERS = 3, 10, 16, 37, 2


def backbone(causal: bool, **options: Any) -> Transformer:
    sizes = {"vocab_size": V, "hidden_size": D, "num_layers": LAYERS, "num_heads": 2, "initializer_std": 0.3}
    return Transformer(causal=causal, **(sizes | options))


def causal_lm(**options: Any) -> CausalLM:
    torch.manual_seed(0)
    return CausalLM(backbone(True), **options)


def masked_lm(**options: Any) -> MaskedLM:
    torch.manual_seed(0)
    model = MaskedLM(backbone(False), **options)
    if model.head.bias is not None:  # zero as initialised, which would hide it
        torch.nn.init.normal_(model.head.bias)
    return model


def causal_batch() -> CausalBatch:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(V, (B, T + 1), generator=generator)
    labels = ids[:, 1:].clone()
    labels[0, -3:] = IGNORED
    labels[2, 4] = IGNORED
    return {"input_ids": ids[:, :-1].clone(), "labels": labels}


def masked_batch() -> MaskedBatch:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(V, (B, T), generator=generator)
    chosen = torch.rand(B, T, generator=generator) < 0.3
    chosen[1] = False  # a sample in which nothing is selected
    assert chosen.any()
    return {"input_ids": ids.masked_fill(chosen, V - 1), "labels": torch.where(chosen, ids, IGNORED)}


def by_definition(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> tuple[float, int, int]:
    """Sum of nats, number of targets, number of hits, one position after the other in float64."""
    total, count, hits = 0.0, 0, 0
    for row, label in zip(logits.detach().double().flatten(0, 1), labels.flatten().tolist(), strict=True):
        if label == IGNORED:
            continue
        log_probabilities = torch.log_softmax(row, -1)
        total -= (1 - smoothing) * log_probabilities[label].item() + smoothing * log_probabilities.mean().item()
        count += 1
        hits += int(row.argmax().item() == label)
    return total, count, hits


def loss(model: LanguageModel, batch: Any) -> Tensor:
    term = model.losses(batch)["loss"]
    return term.sum


def gradients(model: LanguageModel, value: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    value.backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient is not None for gradient in found.values()), found
    return {name: gradient.clone() for name, gradient in found.items() if gradient is not None}


CASES = [(causal_lm, causal_batch), (masked_lm, masked_batch)]
both = pytest.mark.parametrize(("make", "make_batch"), CASES, ids=["causal", "masked"])


@both
class TestBoth:
    def test_the_loss_is_the_cross_entropy_of_the_logits(self, make: Any, make_batch: Any) -> None:
        model, batch = make().eval(), make_batch()
        total, count, hits = by_definition(model(batch), batch["labels"])
        terms = model.losses(batch)
        assert set(terms) == {"loss", "accuracy"}
        assert terms["loss"].sum.item() == pytest.approx(total, rel=1e-5)
        assert terms["loss"].count == terms["accuracy"].count == count
        assert terms["accuracy"].sum == hits
        assert (terms["loss"].weight, terms["accuracy"].weight) == (1.0, 0.0)
        assert 0 < count < B * T

    def test_gradients_are_those_of_the_definition(self, make: Any, make_batch: Any) -> None:
        model, batch = make(), make_batch()
        logits = model(batch)
        labels = batch["labels"]
        direct = -torch.log_softmax(logits[labels != IGNORED], -1).gather(1, labels[labels != IGNORED][:, None]).sum()
        expected = gradients(model, direct)
        found = gradients(model, loss(model, batch))
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=2e-4, atol=2e-5, msg=name)
        assert any(gradient.abs().max() > 1e-2 for gradient in found.values())

    def test_accuracy_follows_the_labels(self, make: Any, make_batch: Any) -> None:
        model, batch = make().eval(), make_batch()
        best = model(batch).argmax(-1)
        labels = torch.where(batch["labels"] == IGNORED, IGNORED, best)
        terms = model.losses({**batch, "labels": labels})
        assert terms["accuracy"].sum == terms["accuracy"].count == (labels != IGNORED).sum()
        wrong = torch.where(labels == IGNORED, IGNORED, (best + 1) % V)
        assert model.losses({**batch, "labels": wrong})["accuracy"].sum == 0

    def test_a_batch_without_a_label_is_zero_and_stays_connected(self, make: Any, make_batch: Any) -> None:
        model, batch = make(), make_batch()
        batch["labels"] = torch.full((B, T), IGNORED)
        terms = model.losses(batch)
        assert terms["loss"].sum == 0
        assert terms["loss"].count == terms["accuracy"].sum == 0
        # `gradients` also sees that none is missing, on which other ranks would wait for ever.
        assert all(gradient.count_nonzero() == 0 for gradient in gradients(model, terms["loss"].sum).values())
        optimised = model.training_step(batch, 0)
        assert optimised == 0
        assert optimised.requires_grad

    def test_label_smoothing_changes_training_and_nothing_else(self, make: Any, make_batch: Any) -> None:
        plain, smooth, batch = make(), make(label_smoothing=0.2), make_batch()
        smooth.load_state_dict(plain.state_dict())
        logits = plain(batch)
        sharp, _, _ = by_definition(logits, batch["labels"])
        smoothed, _, _ = by_definition(logits, batch["labels"], smoothing=0.2)
        assert abs(smoothed - sharp) > 1e-3 * sharp
        assert loss(smooth, batch).item() == pytest.approx(smoothed, rel=1e-5)
        assert loss(plain, batch).item() == pytest.approx(sharp, rel=1e-5)
        assert loss(smooth.eval(), batch).item() == pytest.approx(sharp, rel=1e-5)

    def test_a_tied_weight_learns_from_both_ends(self, make: Any, make_batch: Any) -> None:
        model, batch = make(), make_batch()
        embedding = model.backbone.token_embedding.weight
        whole = gradients(model, loss(model, batch))["backbone.token_embedding.weight"]
        labels = batch["labels"].flatten()
        rows = (labels != IGNORED).nonzero().squeeze(1)

        def part(*, through_input: bool) -> Tensor:
            weight = embedding.detach() if through_input else embedding
            ids = batch["input_ids"]
            embedded = (embedding if through_input else embedding.detach())[ids]
            hidden = model.backbone(inputs_embeds=embedded).flatten(0, 1)[rows]
            logits = model.head(hidden, weight)
            value = torch.nn.functional.cross_entropy(logits, labels[rows], reduction="sum")
            return torch.autograd.grad(value, embedding)[0]

        at_input, at_output = part(through_input=True), part(through_input=False)
        assert at_input.abs().max() > 1e-3
        assert at_output.abs().max() > 1e-3
        torch.testing.assert_close(whole, at_input + at_output, rtol=2e-4, atol=2e-5)
        # Tokens that are not in the batch are still pushed down by the softmax.
        absent = sorted(set(range(V)) - set(batch["input_ids"].flatten().tolist()))
        assert at_input[absent].count_nonzero() == 0
        assert at_output[absent].count_nonzero() > 0

    def test_the_matrix_of_a_tied_head_is_there_once(self, make: Any, make_batch: Any) -> None:
        model = make()
        shapes = [name for name, parameter in model.named_parameters() if parameter.shape == (V, D)]
        assert shapes == ["backbone.token_embedding.weight"]
        assert [name for name, tensor in model.state_dict().items() if tensor.shape == (V, D)] == shapes

    def test_a_head_of_ones_own_is_used(self, make: Any, make_batch: Any) -> None:
        head = LanguageModelHead(D, V, tied=False, initializer_std=0.5)
        model, batch = make(head=head).eval(), make_batch()
        assert model.head is head
        hidden = model.hidden_states(batch)
        torch.testing.assert_close(model(batch), hidden @ head.weight.T)
        total, _, _ = by_definition(hidden @ head.weight.T, batch["labels"])
        assert loss(model, batch).item() == pytest.approx(total, rel=1e-5)

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_padding_changes_no_loss(self, make: Any, make_batch: Any, side: str) -> None:
        model, batch, width = make().eval(), make_batch(), 4
        junk = torch.full((B, width), 5)
        before, after = ([junk], []) if side == "left" else ([], [junk])
        padded = {
            "input_ids": torch.cat([*before, batch["input_ids"], *after], 1),
            "labels": torch.cat(
                [*(torch.full_like(p, IGNORED) for p in before), batch["labels"],
                 *(torch.full_like(p, IGNORED) for p in after)], 1
            ),
            "attention_mask": torch.cat(
                [*(torch.zeros_like(p) for p in before), torch.ones(B, T, dtype=torch.int64),
                 *(torch.zeros_like(p) for p in after)], 1
            ),
        }  # fmt: skip
        assert loss(model, padded).item() == pytest.approx(loss(model, batch).item(), rel=1e-5)
        if not (side == "right" and model.backbone.causal):  # there a causal mask hides what follows by itself
            unmasked = {name: tensor for name, tensor in padded.items() if name != "attention_mask"}
            assert loss(model, unmasked).item() != pytest.approx(loss(model, batch).item(), rel=1e-3)

    def test_documents_of_a_block_do_not_see_each_other(self, make: Any, make_batch: Any) -> None:
        model, batch = make().eval(), make_batch()
        first = 4
        batch["labels"][:, :first] = IGNORED  # the loss is of the second document alone
        assert (batch["labels"] != IGNORED).any()
        together = {**batch, "document_ids": (torch.arange(T) >= first).long().expand(B, T)}
        changed = {**together, "input_ids": batch["input_ids"].clone()}
        changed["input_ids"][:, :first] = (changed["input_ids"][:, :first] + 7) % V
        assert loss(model, changed).item() == pytest.approx(loss(model, together).item(), rel=1e-6)
        del together["document_ids"], changed["document_ids"]
        assert loss(model, changed).item() != pytest.approx(loss(model, together).item(), rel=1e-4)
        alone = {name: tensor[:, first:] for name, tensor in batch.items()}
        with_ids = {**batch, "document_ids": (torch.arange(T) >= first).long().expand(B, T)}
        assert loss(model, alone).item() == pytest.approx(loss(model, with_ids).item(), rel=1e-5)

    def test_segments_reach_the_backbone(self, make: Any, make_batch: Any) -> None:
        torch.manual_seed(0)
        causal = make().backbone.causal
        model = type(make())(backbone(causal, num_token_types=2)).eval()
        batch = make_batch()
        types = (torch.arange(T) >= T // 2).long().expand(B, T)
        assert loss(model, {**batch, "token_type_ids": torch.zeros_like(types)}) == loss(model, batch)
        assert loss(model, {**batch, "token_type_ids": types}) != loss(model, batch)

    def test_flops_are_those_of_backbone_and_head(self, make: Any, make_batch: Any) -> None:
        model = make()
        block = 3 * D * D + D * D + 2 * 4 * D * D
        products = 2 * T * D
        transform = D * D if model.head.dense is not None else 0
        # A head works only where there is a label: everywhere, or at 15 % of the positions until a batch has shown it.
        share = 0.15 if isinstance(model, MaskedLM) else 1.0
        assert model.flops_per_token(T) == round(2 * LAYERS * (block + products) + share * 2 * (transform + D * V))
        assert model.flops_per_token(2 * T) - model.flops_per_token(T) == 2 * LAYERS * products

    def test_flops_follow_the_share_of_labels(self, make: Any, make_batch: Any) -> None:
        model, batch = make(), make_batch()
        if not isinstance(model, MaskedLM):
            return
        model.losses(batch)
        assert model.label_share == (batch["labels"] != IGNORED).double().mean()

    def test_a_missing_key_is_told_at_the_first_step(self, make: Any, make_batch: Any) -> None:
        batch = make_batch()
        del batch["labels"]
        with pytest.raises(InputError, match="needs `labels` in a batch, but the data yields `input_ids`"):
            make().training_step(batch, 0)

    def test_the_optimised_loss_is_the_mean_per_target(self, make: Any, make_batch: Any) -> None:
        model, batch = make(), make_batch()
        total, count, _ = by_definition(model(batch), batch["labels"])
        assert model.training_step(batch, 0).item() == pytest.approx(total / count, rel=1e-5)


class TestCausalLM:
    @pytest.mark.parametrize("position", range(T))
    def test_a_token_changes_no_loss_before_it(self, position: int) -> None:
        model, batch = causal_lm().eval(), causal_batch()
        batch["labels"][batch["labels"] == IGNORED] = 0
        changed = {**batch, "input_ids": batch["input_ids"].clone()}
        changed["input_ids"][:, position] = (changed["input_ids"][:, position] + 1) % V

        def losses(batch: Any) -> Tensor:
            logits = model(batch)
            return torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch["labels"], reduction="none")

        before, after = losses(batch), losses(changed)
        torch.testing.assert_close(after[:, :position], before[:, :position])
        assert (after[:, position] - before[:, position]).abs().min() > 1e-4

    def test_the_default_head_is_the_embedding_alone(self) -> None:
        model = causal_lm()
        assert not list(model.head.parameters())
        assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in model.backbone.parameters())
        hidden = torch.randn(4, D)
        torch.testing.assert_close(model.logits(hidden), hidden @ model.backbone.token_embedding.weight.T)

    def test_it_needs_a_causal_backbone(self) -> None:
        with pytest.raises(InputError) as caught:
            CausalLM(backbone(False))
        assert str(caught.value) == (
            "`CausalLM` needs a causal backbone, but `Transformer` is bidirectional; "
            "use for example `model=decoder_small`"
        )
        CausalLM.check_backbone(True, "decoder_tiny")

    def test_the_contract(self) -> None:
        assert CausalLM.batch_type is CausalBatch


class TestMaskedLM:
    def test_the_default_head_is_berts(self) -> None:
        model = masked_lm()
        shapes = {name: tuple(parameter.shape) for name, parameter in model.head.named_parameters()}
        assert shapes == {
            "dense.weight": (D, D),
            "dense.bias": (D,),
            "norm.weight": (D,),
            "norm.bias": (D,),
            "bias": (V,),
        }
        hidden = torch.randn(4, D)
        head, weight = model.head, model.backbone.token_embedding.weight
        assert head.dense is not None
        inner = torch.nn.functional.gelu(hidden @ head.dense.weight.T + head.dense.bias)
        inner = (inner - inner.mean(-1, keepdim=True)) / (inner.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        torch.testing.assert_close(model.logits(hidden), inner @ weight.T + head.bias, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("pre_norm", [True, False])
    def test_leaving_rows_out_changes_neither_loss_nor_gradient(self, pre_norm: bool) -> None:
        torch.manual_seed(3)
        model = MaskedLM(backbone(False, pre_norm=pre_norm))
        batch = masked_batch()
        few = gradients(model, loss(model, batch))
        everywhere = model.cross_entropy(model.hidden_states(batch).flatten(0, 1), batch["labels"].flatten())
        assert loss(model, batch).item() == pytest.approx(everywhere["loss"].sum.item(), rel=1e-6)
        assert model.losses(batch)["loss"].count == everywhere["loss"].count
        assert model.losses(batch)["accuracy"].sum == everywhere["accuracy"].sum
        for name, gradient in gradients(model, everywhere["loss"].sum).items():
            torch.testing.assert_close(few[name], gradient, rtol=2e-4, atol=2e-5, msg=name)

    def test_the_head_sees_the_selected_rows_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model, batch, seen = masked_lm(), masked_batch(), []
        features = model.head.features
        monkeypatch.setattr(model.head, "features", lambda hidden: seen.append(hidden.shape) or features(hidden))
        model.losses(batch)
        assert seen == [((batch["labels"] != IGNORED).sum(), D)]

    def test_both_sides_are_seen(self) -> None:
        model, batch = masked_lm().eval(), masked_batch()
        batch["labels"][:] = IGNORED
        batch["labels"][:, 5] = 3
        for position in (0, T - 1):
            changed = {**batch, "input_ids": batch["input_ids"].clone()}
            changed["input_ids"][:, position] = (changed["input_ids"][:, position] + 1) % V
            assert loss(model, changed).item() != pytest.approx(loss(model, batch).item(), rel=1e-5)

    def test_it_needs_a_bidirectional_backbone(self) -> None:
        with pytest.raises(InputError) as caught:
            MaskedLM(backbone(True))
        assert str(caught.value) == (
            "`MaskedLM` needs a bidirectional backbone, but `Transformer` is causal; "
            "use for example `model=encoder_small`"
        )
        MaskedLM.check_backbone(False, "encoder_tiny")

    def test_the_contract(self) -> None:
        assert MaskedLM.batch_type is MaskedBatch
