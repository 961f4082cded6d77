"""How fast memory layers are: rules x lengths x devices, plain torch against kernels, with the bytes of their state.

A cell is a `MemoryLayer` over random activations, forward alone and forward with backward, after one call that is not
counted: in CPU seconds of the one thread on a CPU, which other processes disturb little, by the wall clock elsewhere.
What cannot run is a row with its reason.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any

import torch
from attrs import frozen

from hecate_core import provenance
from hecate_core.composing import rule_of, strategy_of, widths_of
from hecate_core.errors import HecateError, InputError
from hecate_core.memory_layer import MemoryLayer
from hecate_core.registry import registry
from hecate_core.shapes import Tensor

SCHEMA = "hecate.bench/1"
STRATEGIES = ("chunkwise", "frozen", "sequential")  # the first that serves a rule is timed
REFERENCE = "reference"
LEAST = 3  # rounds, however long they take


@frozen
class Plan:
    """What is timed: every rule at every length on every device under every backend."""

    rules: tuple[str, ...]
    lengths: tuple[int, ...] = (256, 1024)
    devices: tuple[str, ...] = ("cpu",)
    backends: tuple[str, ...] = ()  # none named: plain torch, and the kernels of each device
    width: int = 64
    heads: int = 2
    batch: int = 1
    chunk: int = 64
    seconds: float = 1.0  # per cell and pass

    def cells(self) -> Iterator[tuple[str, int, str, str]]:
        """Rule, tokens, device, backend."""
        for device in self.devices:
            known = (REFERENCE, "nvrtc") if device.startswith("cuda") else (REFERENCE,)
            for rule in self.rules:
                for tokens in self.lengths:
                    for backend in self.backends or known:
                        yield rule, tokens, device, backend


def bench(plan: Plan, *, tell: Callable[[dict[str, Any]], None] = lambda row: None) -> dict[str, Any]:
    """Time every cell; the result carries the recipe, what it ran on, and the id of all that.

    Raises InputError for a rule that nobody provides, a device that is not here, or a length below 1.
    """
    _refuse(plan)
    rows = []
    for rule, tokens, device, backend in plan.cells():
        row = {"rule": rule, "tokens": tokens, "device": _name(device), "backend": backend}
        try:
            row |= _timed(plan, rule, tokens, torch.device(device), backend)
        except HecateError as error:
            row |= {"reason": str(error)}
        rows.append(row)
        tell(row)
    found = {
        "schema": SCHEMA,
        "recipe": {name: getattr(plan, name) for name in ("width", "heads", "batch", "chunk", "seconds")},
        "manifest": {
            "versions": provenance.versions(),
            "machine": provenance.machine(),
            "threads": torch.get_num_threads(),
            "numerics": provenance.precision(),
            **provenance.commit(),
        },
        "rows": rows,
    }
    return {"id": bench_id(found), **found}


def bench_id(found: dict[str, Any]) -> str:
    """Twelve hex digits over everything but the id itself."""
    whole = {key: value for key, value in found.items() if key != "id"}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:12]


def _refuse(plan: Plan) -> None:
    for rule in plan.rules:
        rule_of(rule)
    widths_of(plan.width, plan.heads)
    if plan.batch < 1:
        raise InputError(f"bench: batch = {plan.batch}; expected an integer >= 1")
    if not 0 <= plan.seconds < float("inf"):
        raise InputError(f"bench: seconds = {plan.seconds}; expected a finite number >= 0")
    if not plan.lengths or min(plan.lengths) < 1:
        raise InputError(f"bench: lengths = {list(plan.lengths)}; expected integers >= 1")
    for device in plan.devices:
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0][:80]
            raise InputError(f'bench: device "{device}"; expected one that is here, such as "cpu" ({reason})') from None


def _timed(plan: Plan, rule: str, tokens: int, device: torch.device, backend: str) -> dict[str, Any]:
    """One cell's numbers."""
    strategy = _strategy(rule, plan.chunk, backend)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        given: dict[str, Any] = {"rule": rule, "strategy": strategy, "chunk": plan.chunk, "backend": backend}
        layer = MemoryLayer(plan.width, plan.heads, **given).to(device)
        x = torch.randn(plan.batch, tokens, plan.width).to(device)
    state = layer.init_state(plan.batch).flat()
    parameters = list(layer.parameters())

    def forward() -> None:
        with torch.inference_mode():
            layer(x)

    def both() -> None:
        y, _ = layer(x)
        torch.autograd.grad(y.square().mean(), parameters, allow_unused=True)

    count = plan.batch * tokens
    return {
        "strategy": strategy,
        "state_bytes": sum(_bytes(one) for one in state.values()) // plan.batch,
        "forward": _pace(forward, count, plan.seconds, device),
        "forward_and_backward": _pace(both, count, plan.seconds, device),
    }


def _strategy(rule: str, chunk: int, backend: str) -> str:
    """The first strategy that serves the rule in plain torch; HecateError where the backend has nothing for it."""
    made = rule_of(rule)
    refusal: HecateError | None = None
    for name in (name for name in STRATEGIES if name in registry().names("strategy")):
        try:
            strategy_of(name, made, chunk=chunk, backend=REFERENCE)
        except HecateError as error:
            refusal = refusal or error
            continue
        if (
            backend != REFERENCE
            and getattr(strategy_of(name, made, chunk=chunk, backend=backend), "pair", None) is None
        ):
            raise InputError(f'strategy "{name}" runs {rule} without a kernel pair')
        return name
    raise refusal or InputError(f"bench: no strategy serves {rule}")


def _pace(call: Callable[[], None], tokens: int, seconds: float, device: torch.device) -> dict[str, Any]:
    """Tokens per second: the median round, the worst one, and how many there were."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    times: list[float] = []
    call()
    _wait(device)
    while len(times) < LEAST or sum(times) < seconds:
        start = clock()
        call()
        _wait(device)
        times.append(max(clock() - start, 1e-9))
    return {
        "tokens_per_second": round(tokens / median(times)),
        "worst": round(tokens / max(times)),
        "rounds": len(times),
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _name(device: str) -> str:
    """The device as a reader knows it."""
    if device.startswith("cuda"):
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({provenance.processor()})"


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def table(found: dict[str, Any]) -> list[Sequence[object]]:
    """Rows for a reader: rule, device, backend, strategy, tokens, bytes of a row's state, both passes or the reason."""
    return [
        (row["rule"], row["device"], row["backend"], "-", row["tokens"], "-", row["reason"], "")
        if "reason" in row
        else (
            row["rule"], row["device"], row["backend"], row["strategy"], row["tokens"], row["state_bytes"],
            row["forward"]["tokens_per_second"], row["forward_and_backward"]["tokens_per_second"],
        )
        for row in found["rows"]
    ]  # fmt: skip
