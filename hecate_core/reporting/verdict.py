"""What a level's numbers amount to, in words: live, odd or dead, and why."""

from attrs import frozen

from hecate_core.reporting.channel import ChannelLevel
from hecate_core.reporting.probe import Level

FULL = 1e-3  # a memory that never gets this far from its start, in lengths of a value, holds nothing
FELT = 1e-4  # bits per token: writes that are worth less change nothing
EDGE = 0.01  # of a gate's range: nearer than this is its edge
STUCK = 0.95  # share of gate values at one edge
HEARD = 1e-4  # an MLP that adds less than this share of its input adds nothing


@frozen
class Verdict:
    """`state` is "live", "odd" or "dead"; `reasons` are sentences without a full stop."""

    state: str
    reasons: tuple[str, ...]


def judge(level: Level | ChannelLevel, *, updates: tuple[int, int] | None = None, buffer: float = 0.0) -> Verdict:
    """A level's state; `updates`: the steps that moved its parameters, of how many; `buffer`: shares of a healthy one.

    Dead: nothing is written, or nothing that can be felt; an MLP that adds nothing to what it was given. Odd: a gate
    sits at an edge of its range, parameters that moved once at most, an unhealthy error buffer, no effect on the loss,
    or a level that is to learn while it reads and did not.
    """
    dead, odd = _of_memory(level) if isinstance(level, Level) else _of_channel(level)
    if updates is not None and updates[1] > 1 and updates[0] <= 1:
        odd.append(f"its parameters moved in {updates[0]} of {updates[1]} steps")
    if not buffer <= 1.0:
        odd.append(f"its error buffer is {buffer:.3g} times as long as a healthy one may be")
    return Verdict("dead" if dead else "odd" if odd else "live", (*dead, *odd))


def _of_memory(level: Level) -> tuple[list[str], list[str]]:
    """What makes a level of a memory dead, and what is odd about it."""
    dead, odd = [], []
    count = len(level.change)
    if level.write_rate == 0.0:
        dead.append(f"none of {count} tokens changed its memory")
    elif level.fill < FULL:
        dead.append(f"its memory never holds more than {level.fill:.1g} of a value")
    if not dead and abs(level.effect) < FELT:
        odd.append(f"masking its writes changes the loss by {level.effect:+.5f} bits per token")
    for name, share, edge in stuck_gates(level):
        odd.append(f"gate {name} sits at its {edge} edge for {share:.0%} of the tokens")
    return dead, odd


def _of_channel(level: ChannelLevel) -> tuple[list[str], list[str]]:
    """What makes a level of a chain of MLPs dead, and what is odd about it."""
    dead, odd = [], []
    if level.share < HEARD:
        dead.append(f"what it adds is {level.share:.1g} of what it was given")
    elif abs(level.effect) < FELT:
        odd.append(f"silencing it changes the loss by {level.effect:+.5f} bits per token")
    if level.change is not None and not bool((level.change > 0).any()):
        odd.append("it is to learn while it reads, and learned nothing from this text")
    return dead, odd


def stuck_gates(level: Level) -> list[tuple[str, float, str]]:
    """Gates of which nearly all values lie at one edge of their range: name, share, "lower" or "upper".

    A retain gate at its upper edge keeps everything, which is what it is there for, and is no finding.
    """
    found = []
    for name, used in level.gates.items():
        low, high = level.ranges[name]
        near = EDGE * (high - low)
        lower, upper = float((used <= low + near).double().mean()), float((used >= high - near).double().mean())
        if lower > STUCK:
            found.append((name, lower, "lower"))
        if upper > STUCK and name != "retain":
            found.append((name, upper, "upper"))
    return found
