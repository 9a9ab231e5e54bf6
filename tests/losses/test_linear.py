from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lmmodules.batch import IGNORED
from lmmodules.errors import InputError
from lmmodules.losses import linear, linear_cross_entropy, token_cross_entropy

N, D, V = 23, 7, 41


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def problem(dtype: torch.dtype = torch.float64, ignored: int = 5, bias: bool = True) -> list[Any]:
    """Leaves with large logits, so that a wrong softmax shows, and some rows without a label."""
    hidden = torch.randn(N, D, dtype=torch.float64)
    weight = torch.randn(V, D, dtype=torch.float64) * 2
    offset = torch.randn(V, dtype=torch.float64) if bias else None
    labels = torch.randint(0, V, (N,))
    labels[torch.randperm(N)[:ignored]] = IGNORED
    leaves = [None if leaf is None else leaf.to(dtype).requires_grad_() for leaf in (hidden, weight, offset)]
    return [leaves[0], leaves[1], labels, leaves[2]]


def reference(hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None, smoothing: float = 0.0) -> Tensor:
    """The definition, written out in float64: minus the log-softmax against the smoothed target."""
    logits = hidden.double() @ weight.double().T + (0 if bias is None else bias.double())
    log_probability = logits - logits.exp().sum(-1, keepdim=True).log()
    total = torch.zeros((), dtype=torch.float64)
    for row, label in enumerate(labels.tolist()):
        if label != IGNORED:
            target = torch.full((weight.shape[0],), smoothing / weight.shape[0], dtype=torch.float64)
            target[label] += 1.0 - smoothing
            total = total - (target * log_probability[row]).sum()
    return total


def gradients(total: Tensor, leaves: list[Any]) -> list[Tensor]:
    return [grad.double() for grad in torch.autograd.grad(total, [leaf for leaf in leaves if leaf is not None])]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("chunk_rows", [None, 1, 6, 18, 1000])
def test_value_and_gradients(
    dtype: torch.dtype, tolerance: float, bias: bool, smoothing: float, chunk_rows: int | None
) -> None:
    hidden, weight, labels, offset = problem(dtype, bias=bias)
    total, count = linear_cross_entropy(
        hidden, weight, labels, offset, chunk_rows=chunk_rows, label_smoothing=smoothing
    )
    expected = reference(hidden, weight, labels, offset, smoothing)
    assert total.dtype == dtype
    assert count.item() == N - 5
    torch.testing.assert_close(total.double(), expected, rtol=tolerance, atol=0)
    leaves = [hidden, weight, offset]
    for actual, wanted in zip(gradients(0.37 * total, leaves), gradients(0.37 * expected, leaves), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=0, atol=tolerance * wanted.abs().max().item() * 2)


def test_agrees_with_torch_on_logits() -> None:
    hidden, weight, labels, bias = problem()
    logits = F.linear(hidden, weight, bias)
    for smoothing in (0.0, 0.2):
        total, count = token_cross_entropy(logits, labels, label_smoothing=smoothing)
        mean = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        fused, _ = linear_cross_entropy(hidden, weight, labels, bias, label_smoothing=smoothing)
        torch.testing.assert_close(total / count, mean, rtol=1e-12, atol=0)
        torch.testing.assert_close(fused, total, rtol=1e-12, atol=0)


def test_token_cross_entropy_takes_any_leading_shape() -> None:
    logits, labels = torch.randn(2, 3, 5), torch.tensor([[1, IGNORED, 4], [0, 2, IGNORED]])
    total, count = token_cross_entropy(logits, labels)
    by_hand = sum(
        -logits[b, t].double().log_softmax(-1)[label].item()
        for b, t, label in [(0, 0, 1), (0, 2, 4), (1, 0, 0), (1, 1, 2)]
    )
    assert count.item() == 4
    assert total.item() == pytest.approx(by_hand, rel=1e-6)
    single, one = token_cross_entropy(logits[0, 0], labels[0, 0])
    assert one.item() == 1
    assert single.item() == pytest.approx(-logits[0, 0].log_softmax(-1)[1].item(), rel=1e-6)


def test_uniform_logits_cost_log_vocabulary() -> None:
    total, count = linear_cross_entropy(torch.zeros(4, 3), torch.randn(50, 3), torch.arange(4))
    assert (total / count).item() == pytest.approx(torch.tensor(50.0).log().item(), rel=1e-6)


def test_label_smoothing_raises_the_loss_of_a_sure_prediction() -> None:
    hidden, weight, labels = torch.eye(4) * 20, torch.eye(4), torch.arange(4)
    sharp, _ = linear_cross_entropy(hidden, weight, labels)
    smooth, _ = linear_cross_entropy(hidden, weight, labels, label_smoothing=0.1)
    # Three quarters of the smoothed mass lie 20 nats below the label.
    assert (smooth - sharp).item() / 4 == pytest.approx(0.1 * 0.75 * 20, rel=1e-5)


def test_gradcheck() -> None:
    hidden, weight, labels, bias = problem()

    def total(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return linear_cross_entropy(hidden, weight, labels, bias, chunk_rows=4)[0] ** 2

    assert torch.autograd.gradcheck(total, (hidden, weight, bias))


def test_has_no_second_derivative() -> None:
    hidden, weight, labels, _ = problem()
    total, _ = linear_cross_entropy(hidden, weight, labels)
    (grad,) = torch.autograd.grad(total**2, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_backward_twice_gives_the_same() -> None:
    hidden, weight, labels, bias = problem()
    total, _ = linear_cross_entropy(hidden, weight, labels, bias)
    first = torch.autograd.grad(3 * total, [hidden, weight, bias], retain_graph=True)
    second = torch.autograd.grad(total, [hidden, weight, bias])
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, 3 * other, rtol=1e-12, atol=0)


def test_gradients_are_multiplied_where_they_lie_unless_the_graph_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    ask = linear._is_graph_kept
    monkeypatch.setattr(linear, "_is_graph_kept", lambda: kept.append(ask()) or kept[-1])
    hidden, weight, labels, bias = problem()
    total, _ = linear_cross_entropy(hidden, weight, labels, bias)
    total.backward(retain_graph=True)
    total.backward()
    assert kept == [True, False]


def test_the_buffer_of_logits_stays_for_the_next_call_on_a_processor() -> None:
    hidden, weight, labels, bias = problem()
    linear_cross_entropy(hidden, weight, labels, bias)
    kept = linear._kept.buffer
    with torch.inference_mode():  # a smaller one fits into it, and training may use what scoring has used
        linear_cross_entropy(hidden[:9], weight, labels[:9], bias)
    linear_cross_entropy(hidden, weight, labels, bias)[0].backward()
    assert linear._kept.buffer is kept
    larger = torch.cat([weight, weight, weight, weight]).detach()
    linear_cross_entropy(hidden, larger, labels)
    assert linear._kept.buffer is not kept
    assert linear._kept.buffer.numel() == (labels != IGNORED).sum() * len(larger)


def test_the_first_buffer_may_be_made_while_scoring() -> None:
    linear._kept.buffer = None
    hidden, weight, labels, bias = problem()
    with torch.inference_mode():
        linear_cross_entropy(hidden, weight, labels, bias)
    linear_cross_entropy(hidden, weight, labels, bias)[0].backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_network_that_prefers_nothing_is_never_right(dtype: torch.dtype) -> None:
    hidden, labels = torch.zeros(N, D, dtype=dtype), torch.arange(N)
    weight = torch.randn(V, D).to(dtype)
    assert linear_cross_entropy(hidden, weight, labels, with_accuracy=True)[2] == 0
    # A bias that prefers one token by little is a preference.
    bias = torch.zeros(V, dtype=dtype)
    bias[3] = 0.01
    assert linear_cross_entropy(hidden, weight, labels, bias, with_accuracy=True)[2] == 1


def test_among_equal_logits_of_half_precision_the_first_is_taken() -> None:
    hidden, weight = torch.ones(2, 1).bfloat16(), torch.tensor([[0.0], [2.0], [2.0]]).bfloat16()
    assert linear_cross_entropy(hidden, weight, torch.tensor([1, 2]), with_accuracy=True)[2] == 1


def test_threads_do_not_write_over_each_other() -> None:
    problems = [problem() for _ in range(8)]
    expected = [reference(*arguments).item() for arguments in problems]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            found = pool.map(lambda arguments: linear_cross_entropy(*arguments)[0].item(), problems)
            assert list(found) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("frozen", [0, 1, 3])
def test_a_frozen_input_gets_no_gradient_and_changes_no_other(frozen: int) -> None:
    arguments = problem()
    expected = reference(*arguments)
    wanted = torch.autograd.grad(expected, [arguments[i] for i in (0, 1, 3) if i != frozen])
    arguments[frozen] = arguments[frozen].detach()
    total, _ = linear_cross_entropy(*arguments)
    actual = torch.autograd.grad(total, [arguments[i] for i in (0, 1, 3) if i != frozen])
    for one, other in zip(actual, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def test_tied_weight_collects_both_gradients() -> None:
    weight = torch.randn(V, D, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, V, (N,))
    inputs = torch.randint(0, V, (N,))
    total, _ = linear_cross_entropy(F.embedding(inputs, weight).tanh(), weight, labels)
    (actual,) = torch.autograd.grad(total, weight)
    (wanted,) = torch.autograd.grad(reference(F.embedding(inputs, weight).tanh(), weight, labels, None), weight)
    torch.testing.assert_close(actual, wanted, rtol=1e-11, atol=1e-11)


def test_ignored_rows_may_hold_anything() -> None:
    hidden, weight, labels, bias = problem()
    with torch.no_grad():
        hidden[labels == IGNORED] = float("inf")
    total, _ = linear_cross_entropy(hidden, weight, labels, bias)
    grad, *_ = torch.autograd.grad(total, [hidden, weight])
    assert total.isfinite()
    assert (grad[labels == IGNORED] == 0).all()


@pytest.mark.parametrize("rows", [0, 6])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_no_label_gives_zero_and_stays_connected(rows: int, smoothing: float) -> None:
    hidden = torch.randn(rows, D, requires_grad=True)
    weight, bias = torch.randn(V, D, requires_grad=True), torch.zeros(V, requires_grad=True)
    labels = torch.full((rows,), IGNORED)
    total, count, correct = linear_cross_entropy(
        hidden, weight, labels, bias, label_smoothing=smoothing, with_accuracy=True
    )
    assert (total.item(), count.item(), correct.item()) == (0.0, 0, 0)
    (total / count.clamp(min=1)).backward()
    for leaf in (hidden, weight, bias):
        assert leaf.grad is not None
        assert (leaf.grad == 0).all()


def test_no_label_gives_zero_on_logits() -> None:
    logits = torch.randn(3, V, requires_grad=True)
    total, count = token_cross_entropy(logits, torch.full((3,), IGNORED))
    total.backward()
    assert (total.item(), count.item()) == (0.0, 0)
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_extreme_logits_stay_finite() -> None:
    hidden = torch.tensor([[3e4], [-3e4]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.0]], requires_grad=True)
    total, _ = linear_cross_entropy(hidden, weight, torch.tensor([0, 0]))
    assert total.item() == pytest.approx(6e4)
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(total, [hidden, weight]))


def test_counts_correct_predictions() -> None:
    hidden, weight, labels, bias = problem(torch.float32)
    best = F.linear(hidden, weight, bias).argmax(-1)
    labels[:4] = best[:4]
    _, _, correct = linear_cross_entropy(hidden, weight, labels, bias, chunk_rows=5, with_accuracy=True)
    assert correct.dtype == torch.int64
    assert correct.item() == (best == labels).sum().item() >= 4


def test_counts_correct_predictions_without_gradients() -> None:
    hidden, weight, labels, bias = problem()
    with torch.no_grad():
        total, count, correct = linear_cross_entropy(hidden, weight, labels, bias, with_accuracy=True)
    assert not total.requires_grad
    torch.testing.assert_close(total, reference(hidden, weight, labels, bias).detach(), rtol=1e-12, atol=0)
    assert 0 <= correct.item() <= count.item()


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16(autocast: bool) -> None:
    hidden, weight, labels, bias = problem(torch.float32)
    dtype = torch.float32 if autocast else torch.bfloat16
    leaves = [leaf.detach().to(dtype).requires_grad_() for leaf in (hidden, weight, bias)]
    with torch.autocast("cpu", dtype=torch.bfloat16) if autocast else nullcontext():
        total, _ = linear_cross_entropy(leaves[0], leaves[1], labels, leaves[2], chunk_rows=5)
    assert total.dtype == torch.float32
    expected = reference(hidden, weight, labels, bias)
    assert total.item() == pytest.approx(expected.item(), rel=1e-2)
    assert total.item() != pytest.approx(expected.item(), rel=1e-7), "the products were meant to be in bfloat16"
    for leaf, wanted in zip(leaves, gradients(expected, [hidden, weight, bias]), strict=True):
        (grad,) = torch.autograd.grad(total, leaf, retain_graph=True)
        assert grad.dtype == dtype
        assert F.cosine_similarity(grad.double().flatten(), wanted.flatten(), dim=0) > 0.999


def test_bfloat16_accumulates_over_chunks_in_float32() -> None:
    # 4096 equal contributions: in bfloat16 a running sum of ones stops at 256.
    rows = 4096
    hidden = torch.ones(rows, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    total, _ = linear_cross_entropy(hidden, weight, torch.zeros(rows, dtype=torch.int64), chunk_rows=1)
    total.backward()
    assert total.item() == pytest.approx(rows * 0.6931472, rel=1e-4)
    assert weight.grad is not None
    assert weight.grad.flatten().tolist() == [-rows / 2, rows / 2]


@pytest.mark.parametrize("train", [True, False])
def test_never_holds_all_logits(train: bool, largest_tensor: type) -> None:
    rows, width, vocab_size = 600, 4, 500
    hidden = torch.randn(rows, width, requires_grad=train)
    weight = torch.randn(vocab_size, width, requires_grad=train)
    labels = torch.randint(0, vocab_size, (rows,))
    with largest_tensor() as made:
        total, _ = linear_cross_entropy(hidden, weight, labels, chunk_rows=32, label_smoothing=0.1)
        if train:
            total.backward()
    assert made.elements == 32 * vocab_size
    with largest_tensor() as made:
        F.cross_entropy(F.linear(hidden, weight), labels)
    assert made.elements >= rows * vocab_size


class Products(TorchDispatchMode):
    """Rows of each product that makes logits, and whether every softmax is written over its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []
        self.softmax_in_place = True

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.ops.aten.mm.out:
            self.rows.append(len(args[0]))
        if function is torch.ops.aten._softmax.out or function is torch.ops.aten.softmax.int_out:
            self.softmax_in_place &= args[0].data_ptr() == kwargs["out"].data_ptr()
        return function(*args, **kwargs)


def test_chosen_chunks_are_small_for_a_large_vocabulary(largest_tensor: type) -> None:
    hidden, weight = torch.randn(700, 2), torch.randn(50_000, 2)
    with largest_tensor() as made:
        linear_cross_entropy(hidden, weight, torch.zeros(700, dtype=torch.int64))
    assert made.elements == 350 * 50_000  # two chunks of one size


def test_chunks_are_of_one_size_and_one_buffer_serves_logits_and_softmax() -> None:
    hidden, weight = torch.randn(10, 3, requires_grad=True), torch.randn(7, 3, requires_grad=True)
    with Products() as products:
        linear_cross_entropy(hidden, weight, torch.zeros(10, dtype=torch.int64), chunk_rows=4)
    assert products.rows == [4, 4, 2]  # three chunks of at most four
    with Products() as products:
        linear_cross_entropy(hidden, weight, torch.zeros(10, dtype=torch.int64), chunk_rows=9)
    assert products.rows == [5, 5]
    assert products.softmax_in_place
    with Products() as products, torch.autocast("cpu", torch.bfloat16):
        linear_cross_entropy(hidden, weight, torch.zeros(10, dtype=torch.int64))
    assert not products.softmax_in_place  # which is float32, and the logits are not


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"labels": torch.zeros(3, dtype=torch.int64)},
            "`labels` must have one entry for each of the 4 rows of `hidden`",
        ),
        ({"weight": torch.zeros(5, 3)}, "must be matrices with the same D, but are (4, 2) and (5, 3)"),
        ({"hidden": torch.zeros(2, 2, 2)}, "flatten batch and length into N"),
        ({"bias": torch.zeros(4)}, "`bias` must have one entry for each of the 5 rows of `weight`"),
        ({"chunk_rows": 0}, "`chunk_rows` must be at least 1, but is 0"),
        ({"label_smoothing": 1.0}, "`label_smoothing` must lie in [0, 1), but is 1.0"),
        ({"label_smoothing": -0.1}, "`label_smoothing` must lie in [0, 1), but is -0.1"),
    ],
)
def test_wrong_input_is_told(change: dict[str, Any], sentence: str) -> None:
    arguments = {"hidden": torch.zeros(4, 2), "weight": torch.zeros(5, 2), "labels": torch.zeros(4, dtype=torch.int64)}
    with pytest.raises(InputError) as raised:
        linear_cross_entropy(**(arguments | change))
    assert sentence in str(raised.value)


def test_wrong_logits_are_told() -> None:
    with pytest.raises(
        InputError, match=r"`labels` must have the shape of `logits` without its last dimension \(2, 3\)"
    ):
        token_cross_entropy(torch.zeros(2, 3, 5), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(InputError, match="`label_smoothing`"):
        token_cross_entropy(torch.zeros(2, 5), torch.zeros(2, dtype=torch.int64), label_smoothing=2.0)
