"""What the differentiation wall costs: ratios on one thread, printed and written as JSON with the recipe.

python benchmarks/differentiation.py [--out FILE]
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hecate_core.differentiation import Tape, autodiff, custom_vjp, cut, no_autodiff
from hecate_core.records import State

CALLS, ROUNDS = 2000, 9
RECIPE = (
    f"8 x 16 float32 tensors, one thread; fastest of {ROUNDS} rounds of {CALLS} calls each, "
    "measured and baseline rounds interleaved; us per call on this machine"
)


def multiply(x: Tensor, w: Tensor) -> Tensor:
    return x * w


def read_state(state: State) -> Tensor:
    return state.a00  # type: ignore[no-any-return]


marked = autodiff(multiply)
marked_state = autodiff(read_state)
severed = no_autodiff(multiply)


class Bare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, Tensor]:
        x, w = ctx.saved_tensors
        return cotangents[0] * w, cotangents[0] * x


def _vjp(residuals: tuple[Tensor, Tensor], cotangent: Tensor) -> tuple[Tensor, Tensor]:
    x, w = residuals
    return cotangent * w, cotangent * x


@custom_vjp(_vjp)
def own_backward(x: Tensor, w: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    return x * w, (x, w)


def microseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - start) / CALLS * 1e6


def taped(call: Callable[[], object]) -> Callable[[], float]:
    def measure() -> float:
        with Tape():
            return microseconds(call)

    return measure


def model_step(marks: int) -> Callable[[], float]:
    """Forward and backward of four small layers in a marked whole, `marks` of them marked inside."""
    w = [torch.randn(64, 64, requires_grad=True) for _ in range(4)]
    x = torch.randn(256, 64)

    def layer(x: Tensor, w: Tensor) -> Tensor:
        return torch.tanh(x @ w)

    layers = [autodiff(layer) if place < marks else layer for place in range(4)]

    def forward(x: Tensor) -> Tensor:
        for one, weight in zip(layers, w, strict=True):
            x = one(x, weight)
        return x.square().mean()

    whole = autodiff(forward)

    def measure() -> float:
        start = time.perf_counter()
        for _ in range(100):
            if marks:
                with Tape() as tape:
                    loss = whole(x)
                tape.grad(loss, w)
            else:
                torch.autograd.grad(forward(x), w)
        return (time.perf_counter() - start) / 100 * 1e6

    return measure


def audit_per_node() -> float:
    w = torch.randn(8, 16, requires_grad=True)

    @autodiff
    def chain(w: Tensor) -> Tensor:
        for _ in range(1000):
            w = w * 1.001
        return w.sum()

    with Tape() as tape:
        loss = chain(w)
    start = time.perf_counter()
    nodes = tape.audit(loss)
    return (time.perf_counter() - start) / nodes * 1e6


def measure_all() -> dict[str, dict[str, float]]:
    torch.set_num_threads(1)
    x, w = torch.randn(8, 16), torch.randn(8, 16, requires_grad=True)
    leaves: dict[str, Any] = {f"a{place:02d}": torch.randn(8, 16) for place in range(16)}
    state = State(**leaves)
    rows: dict[str, tuple[Callable[[], float], Callable[[], float]]] = {
        "autodiff outside a Tape / bare multiply": (
            lambda: microseconds(lambda: marked(x, w)),
            lambda: microseconds(lambda: multiply(x, w)),
        ),
        "autodiff under a Tape / bare multiply": (
            taped(lambda: marked(x, w)),
            lambda: microseconds(lambda: multiply(x, w)),
        ),
        "autodiff of a 16-tensor state under a Tape / outside": (
            taped(lambda: marked_state(state)),
            lambda: microseconds(lambda: marked_state(state)),
        ),
        "custom_vjp outside a Tape / bare Function": (
            lambda: microseconds(lambda: own_backward(x, w)),
            lambda: microseconds(lambda: Bare.apply(x, w)),
        ),
        "custom_vjp under a Tape / bare Function": (
            taped(lambda: own_backward(x, w)),
            lambda: microseconds(lambda: Bare.apply(x, w)),
        ),
        "no_autodiff under a Tape / bare multiply": (
            taped(lambda: severed(x, w)),
            lambda: microseconds(lambda: multiply(x, w)),
        ),
        "cut under a Tape / bare multiply": (taped(lambda: cut(x)), lambda: microseconds(lambda: multiply(x, w))),
        "step of a small model, one mark and four nested / plain": (model_step(4), model_step(0)),
    }
    found = {}
    for name, (measured, baseline) in rows.items():
        pairs = [(measured(), baseline()) for _ in range(ROUNDS)]
        cost, base = (min(column) for column in zip(*pairs, strict=True))
        found[name] = {"ratio": round(cost / base, 2), "us": round(cost, 2), "baseline_us": round(base, 2)}
    per_node = min(audit_per_node() for _ in range(ROUNDS))
    found["audit, per graph node"] = {"us": round(per_node, 2)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    out = parser.parse_args().out
    result = {
        "schema": "hecate.benchmark/1",
        "recipe": RECIPE,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "measurements": measure_all(),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if out:
        out.write_text(text + "\n")


if __name__ == "__main__":
    main()
