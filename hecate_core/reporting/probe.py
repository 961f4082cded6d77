"""What every level of a run's memory does while it reads: recomputed from a checkpoint, so that a build pays nothing.

A held-out text goes through the model token by token, which gives the state after each one under any strategy.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from attrs import field, frozen
from torch import nn

from hecate_core.blueprint import levels_in
from hecate_core.building import Build
from hecate_core.checkpoint import complete, load
from hecate_core.composing import rule_of
from hecate_core.config import Config
from hecate_core.corpus import open_corpus
from hecate_core.errors import HecateError, InputError
from hecate_core.forms import Linearised, Refused
from hecate_core.layer import LevelMemory
from hecate_core.model import LanguageModel
from hecate_core.protocols import MemoryRule
from hecate_core.records import State, Tokens
from hecate_core.registry import registry
from hecate_core.reporting.channel import ChannelLevel, channel_levels
from hecate_core.run_folder import load_run
from hecate_core.shapes import Int, Tensor
from hecate_core.tasks import HELD_OUT, drawn

TOKENS = 256  # of the text that is read
HEALTH_STEPS = 64  # the most steps taken to see an error buffer fill

Runs = list[dict[str, Tensor]]


@frozen
class Level:
    """One level of one block, over the tokens of a text.

    Norms are Frobenius norms over all heads and weights, `[T]`; `change` is `|M_t - M_(t-1)|`, `surprise` the size of
    the inner step (write rate x gradient of the inner loss), or `change` where the rule cannot tell. `fill` is the
    furthest the memory got from its start, in lengths of a value. `effect` is what masking this level's writes costs,
    in bits per token.
    """

    block: int
    level: int
    gates: Mapping[str, Tensor]
    ranges: Mapping[str, tuple[float, float]]
    memory: Tensor
    momentum: Tensor | None
    change: Tensor
    surprise: Tensor
    fill: float
    effect: float

    @property
    def name(self) -> str:
        """`block 0, level 1`."""
        return f"block {self.block}, level {self.level}"

    @property
    def write_rate(self) -> float:
        """Share of the tokens that changed the memory."""
        return float((self.change > 0).double().mean()) if len(self.change) else 0.0


@frozen
class Probe:
    """A text, the bits that its counted tokens cost, every level, and error buffers by level (|sum| / |last|).

    `levels` are those of the memory, `channel` those of chains of MLPs; `health` counts both as an optimizer does.
    """

    ids: tuple[int, ...]
    is_text: bool
    bits: float
    levels: tuple[Level, ...]
    health: Mapping[int, float] = field(factory=dict)
    channel: tuple[ChannelLevel, ...] = ()

    @property
    def all_levels(self) -> tuple[Level | ChannelLevel, ...]:
        """Those of the memory, then those of the chains."""
        return (*self.levels, *self.channel)


def probe(run: Path | str, *, tokens: int = TOKENS) -> Probe:
    """Read a held-out text (or task context) with the newest checkpoint of a run.

    Raises CheckpointError where there is none, InputError for fewer than two tokens.
    """
    if tokens < 2:
        raise InputError(f"report: tokens = {tokens}; expected at least 2")
    model, config = load_run(run)
    ids, targets = _text(config, tokens)
    with torch.inference_mode():
        seen = _read(model, ids, None if config.model.memory is None else _rule(config))
        bits = _bits(model, ids, targets)
        levels = []
        for module in _levels(model):
            with _silenced(module):
                silent = _bits(model, ids, targets)
            levels.append(_level(model, module, seen[module], effect=silent - bits))
    with torch.no_grad():  # FAST levels learn here, which takes gradients of their own
        channel = channel_levels(model, ids, targets, lambda: _bits(model, ids, targets))
    return Probe(tuple(ids[0].tolist()), config.data.task is None, bits, tuple(levels), _health(run, config), channel)


def _text(config: Config, tokens: int) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """One held-out context of the run's own data and what should be predicted at each token, -1: nothing."""
    if config.data.task is not None:
        task = registry().create("task", config.data.task)
        ids, targets = drawn(task, 1, config.seed, HELD_OUT, "report")
        return ids[:, :tokens], targets[:, :tokens]
    passages = [passage for passage in open_corpus(config.data.path).heldout if len(passage) > 1]
    if not passages:
        raise InputError("report: nothing is held out of the run's text; expected a longer text")
    wordiest = max((passage[: tokens + 1] for passage in passages), key=lambda text: sum(map(_is_letter, text)))
    ids = torch.frombuffer(bytearray(wordiest), dtype=torch.uint8).long().unsqueeze(0)
    return ids[:, :-1], ids[:, 1:]


def _is_letter(byte: int) -> bool:
    return chr(byte).isalpha() and byte < 128


def _rule(config: Config) -> MemoryRule:
    assert config.model.memory is not None
    return rule_of(config.model.memory.rule)


def _levels(model: LanguageModel) -> list[LevelMemory]:
    return [module for module in model.modules() if isinstance(module, LevelMemory)]


def _read(model: LanguageModel, ids: Tensor, rule: MemoryRule | None) -> dict[LevelMemory, Runs]:
    """Per level and token: used gates, norms and the length of the value; token by token."""
    modules = _levels(model)
    seen: dict[LevelMemory, Runs] = {module: [] for module in modules}
    now: dict[LevelMemory, dict[str, Tensor]] = {}
    steps = _steps(rule)
    hooks = [module.register_forward_hook(_watcher(module, now, steps)) for module in modules]
    hooks += [module.front.register_forward_hook(_keeper(module, now, "inputs")) for module in modules]
    hooks += [module.gates.register_forward_hook(_keeper(module, now, "gates")) for module in modules]
    try:
        state = model.init_state(1)
        for t in range(ids.shape[1]):
            now.clear()
            _, state = model(ids[:, t : t + 1], state)
            for module in modules:
                seen[module].append(now.get(module, {}))
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _keeper(module: LevelMemory, now: dict[LevelMemory, dict[str, Tensor]], part: str) -> Callable[..., None]:
    def keep(_: nn.Module, __: Any, made: Any) -> None:
        tokens = made[0] if part == "inputs" else made
        now.setdefault(module, {}).update({f"{part}.{name}": one for name, one in tokens.flat().items()})

    return keep


def _watcher(module: LevelMemory, now: dict[LevelMemory, dict[str, Tensor]], steps: Any) -> Callable[..., None]:
    """After a token: what it did to the rule's state."""

    def watch(_: nn.Module, args: tuple[Any, ...], made: Any) -> None:
        before, after = cast(State, args[1]).rule, made[1].rule
        found = now.setdefault(module, {})
        old, new = before.flat(), after.flat()
        stored = [name for name in new if re.match(r"memory(\.|$)", name)] or [
            name for name in new if not re.match(r"momentum(\.|$)", name)
        ]
        moving = [name for name in new if re.match(r"momentum(\.|$)", name)]
        found["memory"] = _norm([new[name] for name in stored])
        found["change"] = _norm([new[name] - old[name] for name in stored if new[name].shape == old[name].shape])
        found["start"] = torch.cat([old[name].double().flatten() for name in stored])
        found["after"] = torch.cat([new[name].double().flatten() for name in stored])
        if moving:
            found["momentum"] = _norm([new[name] for name in moving])
        step = steps(module, before, found) if float(found["change"]) else torch.zeros((), dtype=torch.float64)
        found["surprise"] = found["change"] if step is None else step

    return watch


def _steps(rule: MemoryRule | None) -> Callable[[LevelMemory, State, Mapping[str, Tensor]], Tensor | None]:
    """The size of one token's inner step, where the rule offers its factors; else None."""
    form: Any = Refused("no memory") if rule is None else rule.offers(Linearised)

    def size(module: LevelMemory, before: State, found: Mapping[str, Tensor]) -> Tensor | None:
        if isinstance(form, Refused) or form.gather is not None or "memory" not in before:
            return None
        tokens = Tokens.of({
            name.partition(".")[2]: one for name, one in found.items() if name.startswith(("inputs.", "gates."))
        })  # fmt: skip
        try:
            factors = form.factors(module.params.record(), before.memory, tokens)
        except (HecateError, RuntimeError, KeyError, AttributeError):
            return None  # a rule that sees more than its inputs and gates
        sizes = [move.double().norm().square() for move in factors.moves(before.memory).values()]
        return torch.stack(sizes).sum().sqrt()

    return size


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    if not tensors:
        return torch.zeros((), dtype=torch.float64)
    return torch.stack([one.double().square().sum() for one in tensors]).sum().sqrt()


def _level(model: LanguageModel, module: LevelMemory, seen: Runs, effect: float) -> Level:
    path = next(name for name, one in model.named_modules() if one is module)
    block = re.search(r"blocks\.(\d+)", path)
    seen = [one for one in seen if "memory" in one]

    def over_time(name: str) -> Tensor:
        return torch.stack([one[name] for one in seen]) if seen else torch.zeros(0, dtype=torch.float64)

    gates = {
        name.partition(".")[2]: torch.cat([one[name].double().flatten() for one in seen])
        for name in (seen[0] if seen else {})
        if name.startswith("gates.")
    }
    return Level(
        block=int(block.group(1)) if block else 0,
        level=module.hecate_level,
        gates=gates,
        ranges={name: (gate.low, gate.high) for name, gate in module.gates.declared.items()},
        memory=over_time("memory"),
        momentum=over_time("momentum") if seen and "momentum" in seen[0] else None,
        change=over_time("change"),
        surprise=over_time("surprise"),
        fill=_fill(seen),
        effect=effect,
    )


def _fill(seen: Runs) -> float:
    """The furthest the memory got from its start, in lengths of a mean value (of 1, where no value is an input)."""
    if not seen:
        return 0.0
    start = seen[0]["start"]
    far = max(float((one["after"] - start).norm()) for one in seen if one["after"].shape == start.shape)
    values = [float(one["inputs.v"].double().norm()) for one in seen if "inputs.v" in one]
    scale = sum(values) / len(values) if values else 1.0
    return far / scale if scale else 0.0


@contextmanager
def _silenced(module: LevelMemory) -> Iterator[None]:
    """All writes of one level masked in the body."""

    def mask(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x = args[0]
        return (*args[:2], torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device), *args[3:])

    hook = module.register_forward_pre_hook(mask)
    try:
        yield
    finally:
        hook.remove()


def _bits(model: LanguageModel, ids: Tensor, targets: Tensor) -> float:
    """Mean bits for every counted token of one reading from a fresh memory; 0 where none counts."""
    logits, _ = model(ids, model.init_state(1))
    counted = targets[0] >= 0
    if not bool(counted.any()):
        return 0.0
    return float(F.cross_entropy(logits[0][counted].double(), targets[0][counted])) / math.log(2.0)


def _health(run: Path | str, config: Config) -> dict[int, float]:
    """|summed gradients| / |the last one| of levels that rest between updates, over a few steps from the checkpoint."""
    periods = [level.update_period for level in levels_in(config) or ()]
    if max(periods, default=1) == 1:
        return {}
    found = complete(Path(run) / "checkpoints")
    made = Build(config)
    made.restore(*load(found[max(found)]))
    for _ in range(min(HEALTH_STEPS, 2 * max(periods))):
        made.step()
    return made.optimizer.health()
