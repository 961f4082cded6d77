"""CS-32: the clock moves before those who watch have seen the step."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File, split_words
from hecate_lint.index import LOOPS, walk
from hecate_lint.model import Hit
from hecate_lint.names import dotted_text
from hecate_lint.rule import Rule
from hecate_lint.syntax import block_of, last_word, words_in

_CLOCKS = frozenset({"conductor", "schedule", "clock", "pulse_clock"})
_COUNTERS = frozenset({"global_step", "step_count", "position", "token_position"})
_WATCH = frozenset("check observe probe log record report notify log_metrics log_dict on_step".split())


class AdvanceBeforeObserve(Rule):
    """A counter or schedule advances, and only then the step is observed.

    SMELL. In one block `conductor.advance()` or `self.global_step += 1` stands before a probe, an observer or a
    log call that reads the same step.

    WHY. Every observation carries the wrong step: levels look due when they rest, and a resumed run logs a step
    twice.

    FIX. Observe, then advance; or keep the step before advancing and hand that on.

    TRACE. Catalogue smell CS-32; runtime check: observers get the pulse that they were promised.
    """

    id = "CS-32"
    name = "advance-before-observe"
    group = "core"
    severity = "warn"
    words = _WATCH
    why = "the observation carries the next step's number, so a level looks due when it rests"
    mend = "observe first, then advance"

    VALID = """
def tick(self):
    self.probe.check(self.model)
    self.conductor.advance()
# ---
step = self.global_step
self.global_step += 1
self.log({"step": step})
# ---
def end(self):
    self.lr_scheduler.step()
    self.log({"lr": self.lr})
# ---
def run(self):
    self.conductor.advance()
    for x in self.stream:
        self.probe.check(x)
# ---
self.global_step += 1
math.log(2.0)
# ---
self.position += 1
self.cursor = self.position
"""
    INVALID = """
def tick(self):
    self.conductor.advance()
    self.probe.check(self.model)  # <-
# ---
self.global_step += 1
self.log({"step": self.global_step, "loss": loss})  # <-
# ---
def tick(self, clock, observer):
    clock.advance()
    total = 1
    observer.observe(self.state)  # <-
# ---
def tick(self):
    self.schedule.step()
    self.observer.record(self.schedule.now)  # <-
# ---
for x in stream:
    self.step_count += 1
    writer.log(self.step_count)  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        for stmt in [*file.index.all(ast.Expr), *file.index.all(ast.AugAssign)]:
            clock, counter = _advance(stmt)
            if not clock and not counter:
                continue
            block = block_of(stmt)
            for later in block[block.index(stmt) + 1 :]:
                if isinstance(later, LOOPS):
                    break
                call = _observation(later, clock, counter)
                if call is not None:
                    what = clock or counter
                    yield Hit(call, f"`{what}` advances before `{ast.unparse(call.func)}` sees the step", "likely")
                    break

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.Call()


def _advance(stmt: ast.stmt) -> tuple[str, str]:
    """The clock (`conductor`) or the counter (`self.global_step`) that a statement advances."""
    if isinstance(stmt, ast.AugAssign) and isinstance(stmt.op, ast.Add) and last_word(stmt.target) in _COUNTERS:
        return "", dotted_text(stmt.target)
    if isinstance(stmt, ast.Expr) and isinstance(stmt.value, ast.Call) and isinstance(stmt.value.func, ast.Attribute):
        func = stmt.value.func
        owner = last_word(func.value)
        if owner in _CLOCKS and func.attr in ("advance", "step", "tick"):
            return dotted_text(func.value), ""
    return "", ""


def _observation(stmt: ast.stmt, clock: str, counter: str) -> ast.Call | None:
    if not isinstance(stmt, ast.Expr):
        return None
    for call in walk(stmt):
        if isinstance(call, ast.Call) and last_word(call) in _WATCH and isinstance(call.func, ast.Attribute):
            if last_word(call.func.value) in ("math", "torch", "np"):
                continue
            if counter and any(
                dotted_text(n) == counter for n in walk(call) if isinstance(n, (ast.Name, ast.Attribute))
            ):
                return call
            watcher = set(split_words(last_word(call.func.value))) & {"probe", "observer", "monitor"}
            if clock and (watcher or last_word(ast.parse(clock, mode="eval").body) in words_in(call)):
                return call
    return None
