"""How fast memory layers are: rules x lengths x devices, plain torch against kernels, with the bytes of their state.

A cell is a `MemoryLayer` over random activations, forward alone and forward with backward, after one call that is not
counted: in CPU seconds of the one thread on a CPU, which other processes disturb little, by the wall clock elsewhere.
What cannot run is a row with its reason.

Plain torch is timed under one strategy of a rule, kernels under every strategy for which their backend has a pair,
each beside the same strategy in plain torch.
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
from hecate_core.errors import CompositionError, HecateError, InputError
from hecate_core.memory_layer import MemoryLayer
from hecate_core.protocols import MemoryRule
from hecate_core.registry import registry
from hecate_core.shapes import Tensor

SCHEMA = "hecate.bench/1"
STRATEGIES = ("chunkwise", "frozen", "sequential")  # the first that serves a rule is timed in plain torch
REFERENCE = "reference"
ANY = ("auto", REFERENCE)  # backends that serve every strategy, with or without a pair
LEAST = 3  # rounds, however long they take


@frozen
class Way:
    """A strategy on a backend that time a rule, or why none does."""

    backend: str
    strategy: str | None = None
    reason: str = ""


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

    def cells(self) -> Iterator[tuple[str, int, str, Way]]:
        """Rule, tokens, device, strategy and backend."""
        for device in self.devices:
            known = (REFERENCE, "nvrtc") if device.startswith("cuda") else (REFERENCE,)
            for rule in self.rules:
                ways = ways_of(rule, self.backends or known, self.chunk)
                for tokens in self.lengths:
                    for way in ways:
                        yield rule, tokens, device, way


def bench(plan: Plan, *, tell: Callable[[dict[str, Any]], None] = lambda row: None) -> dict[str, Any]:
    """Time every cell; the result carries the recipe, what it ran on, and the id of all that.

    Raises InputError for a rule that nobody provides, a device that is not here, or a length below 1.
    """
    _refuse(plan)
    rows = []
    for rule, tokens, device, way in plan.cells():
        row: dict[str, Any] = {"rule": rule, "tokens": tokens, "device": _name(device), "backend": way.backend}
        if way.strategy is None:
            row |= {"reason": way.reason}
        else:
            row |= {"strategy": way.strategy}
            try:
                row |= _timed(plan, rule, tokens, torch.device(device), way)
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


def ways_of(rule: str, backends: Sequence[str], chunk: int) -> list[Way]:
    """How a rule is timed on backends: derived from the strategies and pairs that are registered.

    Plain torch gets the first strategy that serves the rule, kernels every one that their backend has a pair for,
    each behind the same strategy on the reference, whether that was asked for or not.
    """
    made = rule_of(rule)
    last = len(STRATEGIES)
    known = sorted(
        registry().names("strategy"), key=lambda name: STRATEGIES.index(name) if name in STRATEGIES else last
    )
    served, refusals = _tried(made, known, chunk, REFERENCE)
    found = []
    for backend in backends:
        if served and backend in ANY:
            found.append(Way(backend, served[0]))
            continue
        paired, reasons = _tried(made, served, chunk, backend)
        for strategy in paired:
            found += [Way(REFERENCE, strategy), Way(backend, strategy)]
        if not paired:
            # A pair that is not there says more than a strategy that no pair could serve.
            told = min(reasons or refusals, key=lambda error: isinstance(error, CompositionError), default=None)
            found.append(Way(backend, reason=str(told or f"bench: no strategy serves {rule}")))
    return sorted(dict.fromkeys(found), key=lambda way: served.index(way.strategy) if way.strategy else len(served))


def _tried(rule: MemoryRule, names: Sequence[str], chunk: int, backend: str) -> tuple[list[str], list[HecateError]]:
    """Strategies that serve the rule on the backend, and why the others do not."""
    served, refusals = [], []
    for name in names:
        try:
            strategy_of(name, rule, chunk=chunk, backend=backend)
        except HecateError as error:
            refusals.append(error)
        else:
            served.append(name)
    return served, refusals


def _timed(plan: Plan, rule: str, tokens: int, device: torch.device, way: Way) -> dict[str, Any]:
    """One cell's numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        given: dict[str, Any] = {"rule": rule, "strategy": way.strategy, "chunk": plan.chunk, "backend": way.backend}
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
        "state_bytes": sum(_bytes(one) for one in state.values()) // plan.batch,
        "forward": _pace(forward, count, plan.seconds, device),
        "forward_and_backward": _pace(both, count, plan.seconds, device),
    }


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
        (row["rule"], row["device"], row["backend"], row.get("strategy", "-"), row["tokens"], "-", row["reason"], "")
        if "reason" in row
        else (
            row["rule"], row["device"], row["backend"], row["strategy"], row["tokens"], row["state_bytes"],
            row["forward"]["tokens_per_second"], row["forward_and_backward"]["tokens_per_second"],
        )
        for row in found["rows"]
    ]  # fmt: skip
