"""What the gates of a config's memory reach: the declared ranges, as far as they hold under its strategy."""

from typing import Any

import attrs

from hecate_core.composing import presented, rule_of, strategy_of
from hecate_core.config import Config
from hecate_core.errors import HecateError
from hecate_core.gates import Gate, narrowed_gates
from hecate_core.strategy_gates import gates_under, summed_of


@attrs.frozen
class Range:
    """One gate of one level: where its used value lies, where it starts, and the declared end where that is higher."""

    level: int
    gate: str
    low: float
    high: float
    init: float
    declared: float | None = None
    summed: int = 1  # steps along errors of one memory

    @property
    def line(self) -> str:
        """`level 0: write in [0, 0.01562], starts at 0.007812 (declared to 1; 64 tokens ...)`."""
        said = f"level {self.level}: {self.gate} in [{self.low:.4g}, {self.high:.4g}], starts at {self.init:.4g}"
        if self.declared is None:
            return said
        return f"{said} (declared to {self.declared:.4g}; {self.summed} tokens take their errors at one memory)"

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return attrs.asdict(self)


def ranges(config: Config) -> list[Range]:
    """Every gate of every level; none where there is no memory or it cannot be composed (other checks say why)."""
    memory = config.model.memory
    if memory is None:
        return []
    try:
        rule = rule_of(memory.rule)
        strategy = strategy_of(memory.strategy, rule, chunk=memory.chunk)
        held = gates_under(presented(rule, strategy), strategy)
        return [
            _range(index, name, gate, rule.gates[name], summed_of(strategy))
            for index, level in enumerate(memory.levels)
            for name, gate in narrowed_gates(held, level.gates, f"levels[{index}]").items()
        ]
    except HecateError:
        return []


def _range(level: int, name: str, gate: Gate, declared: Gate, summed: int) -> Range:
    shortened = declared.high if gate.high < declared.high else None
    return Range(level, name, gate.low, gate.high, gate.init, shortened, summed)
