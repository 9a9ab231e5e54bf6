"""Where the time of a step goes: its operators by the kind of work they do."""

from __future__ import annotations

from collections import defaultdict

from torch.profiler import ProfilerActivity, profile

from benchmarks.workload import Step

STEPS = 3
OTHER, BETWEEN = "other operators", "Python and waiting"

# The first kind one of whose signs stands in the name of an operator.
KINDS: dict[str, tuple[str, ...]] = {
    "matrix products": ("addmm", "baddbmm", "bmm", "mm_", "::mm", "mkldnn_linear", "::linear"),
    "attention": ("scaled_dot_product", "flash_attention"),
    "softmax": ("softmax", "logsumexp", "nll_loss", "amax", "::max", "::exp", "::log", "argmax", "cross_entropy"),
    "norms": ("layer_norm", "rms_norm", "group_norm"),
    "activations": ("gelu", "silu", "tanh", "relu", "sigmoid", "::pow"),
    "dropout": ("dropout", "bernoulli", "random_", "uniform_"),
    "optimizer": ("adam", "foreach", "sqrt", "addcdiv", "addcmul", "lerp"),
    "lookups": ("index", "embedding", "gather", "scatter", "nonzero", "masked_fill", "::where", "searchsorted"),
    "filling": ("fill_", "zero", "::full", "ones"),
    "copies": ("copy_", "clone", "::cat", "contiguous", "_to_copy", "::stack", "::pad"),
    "sums and products of elements": ("::add", "::sub", "::mul", "::div", "::neg", "::sum", "::mean", "::clamp"),
}


def kind_of(operator: str) -> str:
    """The kind of work that an operator does.

    Args:
        operator: Its name, such as `aten::addmm`.
    """
    return next((kind for kind, signs in KINDS.items() if any(sign in operator for sign in signs)), OTHER)


def time_by_kind(step: Step) -> dict[str, float]:
    """Milliseconds of a step on the thread that calls it, by kind of work, the largest first.

    What no operator took, the interpreter and whatever it waited for, is a kind of its own. Recording makes every
    operator a little slower, and those that run thousands of times more so.

    Args:
        step: Warm.
    """
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        for _ in range(STEPS):
            step()
    events = recorded.events() or []
    begin = min(event.time_range.start for event in events)
    end = max(event.time_range.end for event in events)
    found: defaultdict[str, float] = defaultdict(float)
    for event in events:
        found[kind_of(event.name)] += event.self_cpu_time_total
    # Backward runs on a thread of its own for which the caller waits, so the times of both add up.
    found[BETWEEN] = max(0.0, end - begin - sum(found.values()))
    return {
        kind: round(microseconds / 1000 / STEPS, 3)
        for kind, microseconds in sorted(found.items(), key=lambda item: -item[1])
    }
