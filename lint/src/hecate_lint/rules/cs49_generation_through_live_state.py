"""CS-49: sampling through the state that is being built."""

import ast
from collections.abc import Iterator
from typing import Any

from hecate_lint.facts import File, arguments, split_words
from hecate_lint.index import FUNCTIONS, Function, ancestors, function_of, parent, walk
from hecate_lint.model import Hit
from hecate_lint.names import dotted_text
from hecate_lint.rule import Rule
from hecate_lint.syntax import last_word, loop_of, words_in

_PROBES = frozenset("generate sample complete probe sample_text generate_text".split())
_BUILDS = frozenset("build_step train_step training_step fit_step learn_step update_step absorb".split())
# Every training loop says backward, and most models that it trains keep no state: it builds a memory only where the
# loop names one, or its levels.
_GRADIENTS = frozenset("backward manual_backward".split())
_BUILT = frozenset("memory memories level levels pulse".split())
_ISOLATION = (
    "isolat",
    "save_state",
    "stateless",
    "fork",
    "frozen_state",
    "preserve",
    "snapshot",
    "scratch",
    "swap_state",
)
_MODELS = frozenset("model unit net memory learner self".split())
_STATEFUL = frozenset("memory memories state states init_state fresh_state reset_state memory_state".split())


class GenerationThroughLiveState(Rule):
    """Generation or a probe runs through the memory that the build loop is writing.

    SMELL. Inside a build loop, or in a callback of one, `generate(model, ...)`, `model.sample(...)` or a probe
    is called on the building model with no isolation of its state: no isolation context, no save and restore,
    no copy, no explicit state.

    WHY. Reading writes: the prompt's tokens become part of the memory, so the run after a sample differs from
    the run without.

    FIX. `with isolated_state(model):` around the call, or pass a fresh state and drop the one that comes back.

    TRACE. Catalogue smell CS-49; runtime check: the state's hash is equal before and after an evaluation.
    """

    id = "CS-49"
    name = "generation-through-live-state"
    group = "core"
    severity = "error"
    words = _PROBES
    why = "reading writes: the prompt ends up in the memory that is being built, and the run is no longer the same run"
    mend = "wrap the call in a state-isolation context, or pass a fresh state and drop the returned one"

    VALID = """
for step, batch in enumerate(stream):
    build_step(model, batch)
    if step % 100 == 0:
        with isolated_state(model):
            text = generate(model, prompt)
# ---
logits, _ = model(prompt, state=model.fresh_state())
# ---
for step, batch in enumerate(stream):
    build_step(model, batch)
    text = generate(copy.deepcopy(model), prompt)
# ---
for step, batch in enumerate(stream):
    build_step(model, batch)
    text, _ = model.generate(prompt, state=model.init_state(1))
# ---
for batch in stream:
    build_step(model, batch)
    saved = save_state(model)
    try:
        generate(model, prompt)
    finally:
        restore(model, saved)
# ---
for batch in loader:
    build_step(model, batch)
    x = torch.distributions.Normal(0, 1).sample()
    y = random.sample(range(3), 2)
# ---
for batch in loader:
    diffusion(batch).backward()
    optimizer.step()
    images = ema.ema_model.sample(batch_size=4)
"""
    INVALID = """
for step, batch in enumerate(stream):
    build_step(model, batch)
    if step % 100 == 0:
        text = generate(model, prompt)  # <-
# ---
def on_checkpoint(model, prompt):
    model.save("ck.pt")
    print(model.sample(prompt))  # <-
# ---
def run(unit, stream):
    for batch in stream:
        unit.absorb(batch)
        unit.probe(batch)  # <-
# ---
class Callback:
    def on_step_end(self, model, step):
        self.texts.append(model.generate(self.prompt))  # <-
# ---
for batch in stream:
    model.train_step(batch)
    with torch.no_grad():
        sample_text(model, "Once")  # <-
# ---
for pulse, batch in zip(schedule, stream):
    model(batch).mean().backward()
    for level in model.levels:
        if pulse.active(level):
            optimizers[level].step()
    log(generate(model, prompt))  # <-
"""

    def nominate(self, file: File) -> Iterator[Hit]:
        for node in file.index.word(*_PROBES):
            call = parent(node)
            if not (isinstance(call, ast.Call) and call.func is node):
                continue
            subject = _subject(call)
            if not subject or _is_isolated(call) or _has_state(call):
                continue
            where = _in_build_loop(call) or _in_callback(call)
            if where and (_is_memory(file) or where == "build loop"):
                yield Hit(
                    call,
                    f"`{ast.unparse(call.func)}` runs on `{subject}` in a {where} with nothing around its state",
                    "likely",
                )

    def pattern(self, m: Any, hit: Hit) -> Any:
        return m.Call(func=m.Name() | m.Attribute())


def _subject(call: ast.Call) -> str:
    """The model that a call runs on: its receiver or its first argument."""
    if isinstance(call.func, ast.Attribute):
        words = split_words(last_word(call.func.value))
        if dotted_text(call.func.value) and words and words[-1] in _MODELS - {"self"}:
            return dotted_text(call.func.value)
        return ""
    first = call.args[0] if call.args else None
    words = split_words(last_word(first)) if isinstance(first, (ast.Name, ast.Attribute)) else []
    return dotted_text(first) if first is not None and words and words[-1] in _MODELS else ""


def _in_build_loop(call: ast.Call) -> str:
    loop = loop_of(call)
    while loop is not None:
        called = {last_word(node) for node in walk(loop) if isinstance(node, ast.Call)}
        if called & _BUILDS or (called & _GRADIENTS and words_in(loop) & _BUILT):
            return "build loop"
        loop = loop_of(loop)
    return ""


def _in_callback(call: ast.Call) -> str:
    function: Function | None = function_of(call)
    return "callback" if function is not None and function.name.startswith("on_") else ""


def _is_memory(file: File) -> bool:
    """Callbacks count only where nothing says that the model keeps no state (a transformers callback is no memory)."""
    return not any(
        alias.name.split(".")[0] in ("transformers", "lightning", "pytorch_lightning")
        for alias in file.index.all(ast.alias)
    ) and (
        not any(
            (node.module or "").split(".")[0] in ("transformers", "lightning", "pytorch_lightning")
            for node in file.index.all(ast.ImportFrom)
        )
    )


def _is_isolated(call: ast.Call) -> bool:
    for at in ancestors(call):
        if isinstance(at, (ast.With, ast.AsyncWith)):
            if any(mark in ast.unparse(item.context_expr).lower() for item in at.items for mark in _ISOLATION):
                return True
        if isinstance(at, ast.Try) and any("restore" in w for s in at.finalbody for w in words_in(s)):
            return True
        if isinstance(at, FUNCTIONS):
            break
    return "deepcopy" in words_in(call)


def _has_state(call: ast.Call) -> bool:
    return any(set(split_words(key)) & _STATEFUL for key in arguments(call))
