"""CS-27 and CS-28: an optimizer that does not know that levels have periods."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File, split_words
from hecate_lint.index import ancestors, parent, walk
from hecate_lint.model import Hit
from hecate_lint.rule import Rule
from hecate_lint.syntax import last_word, loop_of, words_in

_CLOCKS = frozenset({"pulse", "conductor"})
_LEVELLED = frozenset({"cms", "level", "levels", "multilevel", "nested"})


class FrequencyBlindOptimizer(Rule):
    """One optimizer steps every level at every step.

    SMELL. `AdamW(cms_model.parameters())`, one group for a model with several levels; `opt.step()` on each
    iteration of a loop in which a pulse is made and never asked.

    WHY. A slow level that is stepped every time is a fast level: its period exists in the config only, and
    moments of an optimizer decay on steps that the level should not have seen.

    FIX. An optimizer (or group) per level, stepped when the pulse says that the level is due.

    TRACE. Catalogue smells CS-27 and CS-28.
    """

    id = "CS-27"
    also = ("CS-28",)
    name = "frequency-blind-optimizer"
    group = "core"
    severity = "warn"
    words = frozenset({"parameters", "step"})
    why = "a slow level that is stepped every time is a fast level: its period exists only in the config"
    mend = "one optimizer or group per level, stepped when the pulse says that the level is due"

    VALID = """
opts = {l.name: torch.optim.AdamW(l.parameters()) for l in model.levels}
# ---
for l in model.levels:
    if pulse.active(l):
        opts[l.name].step()
# ---
opt = torch.optim.SGD(model.parameters(), lr=0.1)
# ---
for step, b in enumerate(stream):
    pulse = schedule.at(step)
    model(b).backward()
    if pulse.is_due(0):
        opt.step()
# ---
for step, b in enumerate(stream):
    pulse = conductor.pulse()
    model(b).backward()
    opt.step(pulse)
"""
    INVALID = """
opt = torch.optim.AdamW(cms_model.parameters(), lr=1e-3)  # <-
# ---
for step, b in enumerate(stream):
    pulse = schedule.at(step)
    model(b).backward()
    opt.step()  # <-
# ---
from torch.optim import SGD as Plain
opt = Plain(nested_model.parameters(), lr=0.1)  # <-
# ---
class Cms(nn.Module):
    def __init__(self):
        super().__init__()
        self.levels = nn.ModuleList(Level(f) for f in (1, 8))
model = Cms()
opt = torch.optim.Adam(model.parameters())  # <-
# ---
def run(stream, conductor, optimizer):
    for b in stream:
        pulse = conductor.next()
        loss(b).backward()
        optimizer.step()  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        for node in file.index.word("parameters"):
            call = parent(node)
            made = parent(call) if isinstance(call, ast.Call) else None
            if isinstance(node, ast.Attribute) and isinstance(made, ast.Call) and made.args[:1] == [call]:
                called = file.names.callee(made) or ""
                if called.startswith("torch.optim.") and self._has_levels(file, node.value):
                    yield Hit(
                        made, f"`{called}` holds every level of `{ast.unparse(node.value)}` in one group", "likely"
                    )
        for node in file.index.word("step"):
            call = parent(node)
            if isinstance(node, ast.Attribute) and isinstance(call, ast.Call) and call.func is node and not call.args:
                if {"opt", "optimizer", "optim"} & set(split_words(last_word(node.value))) and _clock_unasked(call):
                    yield Hit(call, "every level is stepped though a pulse is at hand", "likely")

    def _has_levels(self, file: File, model: ast.expr) -> bool:
        words = set(split_words(last_word(model)))
        if words & _LEVELLED and "level" not in words:
            return True
        if not isinstance(model, ast.Name):
            return False
        for binder in file.names.bound(model) or []:
            value = getattr(binder, "value", None)
            cls = file.classes.get(last_word(value)) if isinstance(value, ast.Call) else None
            if cls is not None and "levels" in file.attributes(cls):
                return any(
                    last_word(v) in ("ModuleList", "ModuleDict") for _, v in file.attributes(cls)["levels"].writes
                )
        return False

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.Call(func=m.Name() | m.Attribute())


def _clock_unasked(call: ast.Call) -> bool:
    """Whether the loop around a step makes a pulse that nothing near the step asks."""
    loop = loop_of(call)
    if loop is None:
        return False
    for at in ancestors(call):
        if at is loop:
            break
        if isinstance(at, (ast.If, ast.For)):
            return False
    made = [
        n
        for n in walk(loop)
        if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name) and n.targets[0].id in _CLOCKS
    ]
    if not made:
        return False
    read = [
        n
        for n in walk(loop)
        if isinstance(n, ast.Name) and n.id in _CLOCKS - {"conductor"} and isinstance(n.ctx, ast.Load)
    ]
    return not read and not words_in(call) & _CLOCKS
