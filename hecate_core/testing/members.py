"""Everything registered, as the cells that checks and tests run over: a member joins by existing."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch

from hecate_core.anchoring import fitting_grain
from hecate_core.composing import rule_of, strategy_of
from hecate_core.config.reference import Reference
from hecate_core.errors import CompositionError
from hecate_core.frequency import FrequencyGate
from hecate_core.levels import levels_of
from hecate_core.mixer import Mixer
from hecate_core.protocols import MemoryRule, Strategy
from hecate_core.registry import registry

WIDTH, HEADS = 8, 2
SLOTS = 3  # the width M of a tiny memory; F follows from K
CHUNK, WINDOW, PERSISTENT, CONV = 4, 3, 2, 3

SCHEDULES: dict[str, tuple[Any, ...]] = {
    "1": (1,),
    "1-3": (1, 3),
    "reset": ({"write_period": 1, "reset_period": 2}, {"write_period": 2, "reset_period": 4}),
    "learned": (1, {"frequency": "learned"}),
}
"""Level schedules by name: one level, two periods, levels that forget at document-like borders, a learned frequency."""


@attrs.frozen
class Cell:
    """A composition with the rule and the strategy behind it; both None where it wants no memory."""

    composition: Any
    rule: Any = None
    strategy: Any = None

    def __str__(self) -> str:
        return "-".join(str(part) for part in (self.composition, self.rule, self.strategy) if part)


def component_of(kind: str, reference: Any) -> Any:
    """A component from a name or a table; an instance is returned as it is."""
    named = isinstance(reference, (str, Mapping, Reference))
    return registry().create(kind, reference) if named else reference


def strategies_of(rule: MemoryRule, *, chunk: int = CHUNK) -> Iterator[tuple[str, Strategy]]:
    """Every registered strategy that serves the rule, by name."""
    for name in registry().names("strategy"):
        try:
            yield name, strategy_of(name, rule, chunk=chunk)
        except CompositionError:
            continue


def cells(*, exact: bool | None = None) -> list[Cell]:
    """Composition x rule x strategy, every valid one; `exact` keeps exact or approximate strategies alone."""
    found = []
    rules = {name: rule_of(name) for name in registry().names("rule")}
    for composition in registry().names("composition"):
        join = registry().create("composition", composition, width=WIDTH)
        if not getattr(join, "causal", True):
            continue  # made for study, under a name that says so
        if not join.remembers:
            found.append(Cell(composition))
            continue
        for rule, made in rules.items():
            for strategy, spread in strategies_of(made):
                if exact is None or spread.exact is exact:
                    found.append(Cell(composition, rule, strategy))
    return found


def tiny_mixer(
    cell: Cell,
    levels: Sequence[Any] = (1,),
    *,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    memory: Mapping[str, Any] | None = None,
) -> Mixer:
    """The cell at its smallest, with convolution, window and persistent tokens; weights drawn from `seed`.

    Weights that start at zero are moved off it, so that everything has an influence. Global random state stays.
    """
    attention = {"window": WINDOW, "persistent": PERSISTENT, "rotary": True}
    options: dict[str, Any] | None = None
    if cell.rule is not None:
        made = rule_of(cell.rule)
        spread = strategy_of(cell.strategy, made, chunk=CHUNK)
        options = {
            "rule": made,
            "strategy": cell.strategy,
            "chunk": CHUNK,
            "levels": levels,
            "grain": fitting_grain(spread, made, levels_of(levels), CHUNK + 1),
            "conv": CONV,
            "widths": {"M": SLOTS},
            **(memory or {}),
        }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mixer = Mixer(WIDTH, HEADS, composition=cell.composition, attention=attention, memory=options)
        mixer.to(dtype)
        with torch.no_grad():
            for parameter in mixer.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))  # hecate: allow CS-47 -- our own fresh module
            for module in mixer.modules():
                if isinstance(module, FrequencyGate):  # decisions that go both ways
                    module.weight.copy_(8.0 * torch.randn_like(module.weight))
                    module.bias.zero_()
    return mixer
