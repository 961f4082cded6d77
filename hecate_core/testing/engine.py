"""The engine of the conformance kit: named checks over one member, each with its outcome and reason.

A check is a function of a case (the member and what it needs to run tiny). It returns when all is well,
raises `Failed` with one line when not, `Unasked` where the member does not claim what it would prove.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import attrs
import torch

from hecate_core.errors import nearest
from hecate_core.registry.oneline import one_line, told

CaseT = TypeVar("CaseT")


class Failed(Exception):  # noqa: N818 - the name is the outcome
    """What a check found, in one line."""


class Unasked(Exception):  # noqa: N818 - the name is the outcome
    """The member does not claim what the check would prove; the reason says why."""


@attrs.frozen
class Check:
    """One check of one member: `outcome` is passed, failed, unasked, expected (a declared failure) or unexpected.

    "unexpected" is a failure that was declared and did not come: declarations are strict.
    """

    subject: str
    name: str
    outcome: str
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Whether this is no finding."""
        return self.outcome in ("passed", "unasked", "expected")

    @property
    def line(self) -> str:
        """`rule "delta": causality: failed: ...`."""
        return f"{self.subject}: {self.name}: {self.outcome}" + (f": {self.reason}" if self.reason else "")

    def record(self) -> dict[str, str]:
        """Plain values for JSON."""
        return attrs.asdict(self)


class Suite(Generic[CaseT]):
    """The checks of one kind of member, in order; `@suite.check` adds a function under its name in kebab case."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._checks: dict[str, Callable[[CaseT], None]] = {}

    def check(self, function: Callable[[CaseT], None]) -> Callable[[CaseT], None]:
        """Add a check."""
        self._checks[function.__name__.replace("_", "-")] = function
        return function

    @property
    def names(self) -> list[str]:
        """What can fail, MADE and SETTINGS included."""
        return [MADE, *self._checks, SETTINGS]

    def run(self, name: str, make: Callable[[], CaseT], expected: Mapping[str, str] | None = None) -> Iterator[Check]:
        """Every check of the member that `make` hands over; `expected` are failing checks with their reasons."""
        subject = f'{self.kind} "{name}"'
        settings = Settings()
        made: list[CaseT] = []
        first = _outcome(lambda _: made.append(make()), None)
        declared = dict(expected or {})
        if made:
            declared = {**getattr(getattr(made[0], "member", None), "expected_failures", {}), **declared}
        yield _judged(subject, MADE, first, declared)
        for label, function in self._checks.items() if made else ():
            yield _judged(subject, label, _outcome(function, made[0]), declared)
        yield _judged(subject, SETTINGS, settings.restore(), declared)
        for label in declared:
            if label not in self.names:
                yield Check(subject, label, "unexpected", f"no check has this name{nearest(label, self.names)}")


MADE = "can-be-made"
SETTINGS = "leaves-torch-settings-alone"
Outcome = tuple[str, str]


def _outcome(function: Callable[[Any], None], case: Any) -> Outcome:
    try:
        function(case)
    except Failed as found:
        return "failed", one_line(str(found))
    except Unasked as reason:
        return "unasked", one_line(str(reason))
    except Exception as error:  # a stranger's member may raise anything; that is the finding
        return "failed", f"raised {told(error)}"
    return "passed", ""


def _judged(subject: str, name: str, outcome: Outcome, declared: Mapping[str, str]) -> Check:
    if name not in declared:
        return Check(subject, name, *outcome)
    if outcome[0] == "failed":
        return Check(subject, name, "expected", f"{declared[name]} ({outcome[1]})")
    return Check(subject, name, "unexpected", f"declared to fail ({declared[name]}), but it {outcome[0]}")


class Settings:
    """Everything global in torch that a member must leave as it found it."""

    def __init__(self) -> None:
        self._before = _settings()
        self._random = torch.get_rng_state()

    def restore(self) -> Outcome:
        """Put everything back, and say what had been changed."""
        after = _settings()
        changed = [name for name, value in after.items() if value != self._before[name]]
        if not torch.equal(self._random, torch.get_rng_state()):
            changed.append("global random state")
        for name in changed:
            if name in _SETTERS:
                _SETTERS[name](self._before[name])
        torch.set_rng_state(self._random)
        return ("failed", f"changed: {', '.join(changed)}") if changed else ("passed", "")


def _settings() -> dict[str, Any]:
    return {
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "anomaly detection": torch.is_anomaly_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "autocast": torch.is_autocast_enabled("cpu"),
    }


_SETTERS: dict[str, Callable[[Any], Any]] = {
    "default dtype": torch.set_default_dtype,
    "default device": torch.set_default_device,  # slows every later call a little, so only where it must be put back
    "threads": torch.set_num_threads,
    "gradients": torch.set_grad_enabled,
    "anomaly detection": torch.autograd.set_detect_anomaly,
    "deterministic algorithms": torch.use_deterministic_algorithms,
    "float32 matmul precision": torch.set_float32_matmul_precision,
}
