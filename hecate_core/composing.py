"""From references and numbers to components that fit together; every refusal names its reason.

A rule is given as an instance, a name, a table with `name` and options, or a table of the four knobs.
"""

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from hecate_core.backends import pair_for
from hecate_core.composed import ComposedRule
from hecate_core.config.reference import KNOBS, Reference, written_by_knobs
from hecate_core.errors import CompositionError, HecateError, InputError
from hecate_core.forms import Linearised, Refused
from hecate_core.front import Front
from hecate_core.layer import LeveledMemory, LevelMemory
from hecate_core.levels import LevelSpec, levels_of
from hecate_core.protocols import MemoryRule, Strategy, Widths
from hecate_core.registry import registry
from hecate_core.widths import full_widths


def rule_of(reference: Any) -> MemoryRule:
    """A memory rule from an instance, a name, `{name = ..., options}` or `{structure = ..., bias = ..., ...}`."""
    if isinstance(reference, MemoryRule):
        return reference
    if isinstance(reference, Reference) and not reference.name:
        try:
            return _from_knobs(reference.options)
        except HecateError as error:
            raise type(error)(f"{reference.place}: {error}" if reference.place else str(error)) from error
    if isinstance(reference, Mapping) and written_by_knobs(reference):
        return _from_knobs(reference)
    rule = registry().create("rule", reference)
    if not isinstance(rule, MemoryRule):
        raise CompositionError(f"rule {reference!r}: {type(rule).__name__} is no MemoryRule; see specs/protocols.md")
    return rule


def _from_knobs(table: Mapping[str, Any]) -> ComposedRule:
    missing = [knob for knob in KNOBS if knob not in table]
    unknown = sorted(set(table) - {*KNOBS, "narrow"})
    if missing or unknown:
        wrong = f"lacks {missing[0]}" if missing else f'has no knob "{unknown[0]}"'
        raise CompositionError(f"rule from knobs {wrong}; expected {', '.join(KNOBS)} and optionally narrow")
    made = {knob: registry().create(knob, table[knob]) for knob in KNOBS}
    name = "+".join(Reference.of(table[knob]).name for knob in KNOBS)
    return ComposedRule(name, **made, narrow=table.get("narrow"))


def strategy_of(reference: Any, rule: MemoryRule, *, chunk: int = 64, backend: str = "auto") -> Strategy:
    """A strategy that serves the rule; `chunk` and the backend's kernel pair go to strategies that take them.

    Raises CompositionError with the rule's own reason where it does not offer the form that is needed, and where the
    backend asked for by name would leave work to plain torch.
    """
    if callable(reference) and hasattr(reference, "needs"):
        strategy: Strategy = reference
        _form_for(strategy, strategy.name, rule)
        return strategy
    parsed = Reference.of(reference)
    factory = registry().component("strategy", parsed.name)
    _form_for(factory, parsed.name, rule)
    taken = inspect.signature(factory).parameters
    given: dict[str, Any] = {}
    if "chunk" in taken and "chunk" not in parsed.options:
        given["chunk"] = chunk
    ops = {option: op for option, op in ops_of(parsed.name, rule).items() if option in taken}
    if backend not in ("auto", "reference"):
        _demand_ops(parsed.name, rule, ops, backend)
    given |= {option: pair_for(op, backend) for option, op in ops.items()}
    made: Strategy = registry().create("strategy", parsed, **given)
    _form_for(made, parsed.name, rule)  # a factory may say only now what it needs
    presented(rule, made)  # or that it cannot serve this one
    return made


def presented(rule: MemoryRule, strategy: Strategy) -> MemoryRule:
    """The rule as the strategy shows it to layers: itself, or what `strategy.around(rule)` makes of it."""
    around = getattr(strategy, "around", None)
    made: MemoryRule = rule if around is None else around(rule)
    return made


def ops_of(strategy: str, rule: MemoryRule) -> dict[str, str]:
    """The ops that do the rule's work under a registered strategy, by the option that takes their pair.

    `pair` is for the op of the form, `step_pair` and `link_pair` for those of its step map and its link; none of them
    where there is no such cell.
    """
    factory = registry().component("strategy", strategy)
    form: object = rule.offers(factory.needs) if factory.needs is not None else _preferred(factory, rule)
    if isinstance(form, Refused):
        return {}
    own = None if isinstance(form, Linearised) and not form.grows_by_op else getattr(factory, "op", None)
    found = {
        "pair": getattr(form, "op", None) or own,
        "step_pair": getattr(getattr(form, "step_map", None), "op", None),
        "link_pair": getattr(getattr(form, "link", None), "op", None),
    }
    return {option: op for option, op in found.items() if op is not None}


def _demand_ops(strategy: str, rule: MemoryRule, ops: Mapping[str, str], backend: str) -> None:
    """Raises CompositionError, with the reason, where a backend's kernels would not do the rule's work."""
    factory = registry().component("strategy", strategy)
    form: object = None if factory.needs is None else rule.offers(factory.needs)
    why = form.without_op if isinstance(form, Linearised) else None
    if why is None and not ops:
        why = "a step that is no op"
    if why is not None:
        raise CompositionError(
            f'rule "{rule.name}" under strategy "{strategy}" has {why}: backend "{backend}" has no kernels for it; '
            'use another strategy or backend = "reference"'
        )


def _form_for(strategy: Any, name: str, rule: MemoryRule) -> Any:
    """The form of the rule that a strategy needs (None where it needs none), or CompositionError with the reason."""
    if getattr(strategy, "needs", None) is None:
        return None
    form: object = rule.offers(strategy.needs)
    if isinstance(form, Refused):
        raise CompositionError(
            f'rule "{rule.name}" cannot run under strategy "{name}" ({form.reason}); '
            'strategy "sequential" is always valid'
        )
    return form


def _preferred(strategy: Any, rule: MemoryRule) -> Any:
    """The form that a strategy takes where the rule offers it; None where there is no such form."""
    wanted = getattr(strategy, "prefers", None)
    form: object = None if wanted is None else rule.offers(wanted)
    return form if wanted is not None and isinstance(form, wanted) else None


def widths_of(width: int, heads: int, more: Mapping[str, int] | None = None) -> Widths:
    """Heads, key and value width of a layer: D / H each unless `more` says otherwise.

    Heads and values have no say in `more`: what a memory reads must be as wide as the layer.
    """
    if heads < 1 or width < 1 or width % heads:
        raise CompositionError(f"width {width} does not divide into {heads} heads; expected a multiple")
    own = {"H": heads, "K": width // heads, "V": width // heads}
    for letter, size in (more or {}).items():
        if letter in ("H", "V"):
            raise CompositionError(
                f"widths.{letter} = {size!r}: {letter} = {own[letter]} follows from width {width} and {heads} heads; "
                "leave it out"
            )
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise CompositionError(f"widths.{letter} = {size!r}; expected an integer >= 1")
    return {**own, **(more or {})}


def demand_letters(reference: Any, widths: Mapping[str, int] | None) -> None:
    """CompositionError for a width that the rule of the reference does not leave to be chosen.

    A rule's letters are those of its inputs, parameters and gates; what it derives by a function is not free.
    """
    if not widths:
        return
    rule = rule_of(reference)
    letters = {*rule.inputs.values(), *(gate.width for gate in rule.gates.values() if gate.width)}
    letters |= {letter for param in rule.params.values() for letter in param.axes.split()}
    fixed = {letter for letter, source in getattr(rule, "widths", {}).items() if callable(source)}
    free = sorted(letters - fixed - {"H", "V"})
    for letter, size in widths.items():
        if letter not in {*free, "H", "V"}:  # those two are refused with the layer's own numbers, in `widths_of`
            known = f"expected {' or '.join(free)}" if free else "leave it out"
            raise CompositionError(
                f'widths.{letter} = {size!r}: rule "{rule.name}" has no such width to choose; {known}'
            )


def leveled_memory(
    width: int,
    heads: int,
    *,
    rule: Any,
    strategy: Any = "chunkwise",
    chunk: int = 64,
    levels: Sequence[Any] | None = None,
    grain: int | None = None,
    conv: int = 4,
    conv_streams: Collection[str] = ("q", "k", "v"),
    activation: str = "silu",
    aggregate: str = "invsqrt",
    backend: str = "auto",
    widths: Mapping[str, int] | None = None,
    recalls: bool = False,
    writes: bool = True,
) -> LeveledMemory:
    """A memory of `levels` (one of period 1 by default), each with a front, gates and parameters of its own.

    `recalls` adds a front for reading alone; without `writes` the memory stays as it starts.
    `grain` is the tokens per tick of the token clock (default: `chunk`). Raises CompositionError or InputError, also
    where the kernels of a backend asked for by name do not take memories of such sizes.
    """
    made = rule_of(rule)
    for stream in conv_streams:
        if stream not in ("q", "k", "v", *made.inputs):
            raise InputError(f'conv_streams: "{stream}"; expected some of {", ".join(made.inputs)}')
    if grain is not None and grain < 1:
        raise InputError(f"grain = {grain}; expected an integer >= 1, or none for the chunk")
    sizes = full_widths(made, widths_of(width, heads, widths))
    specs: tuple[LevelSpec, ...] = levels_of(levels)
    parts = []
    mixed = {*conv_streams, *getattr(made, "mixes", ())}
    normed = {"q", "k"} - set(getattr(made, "unscaled", ()))
    for index, spec in enumerate(specs):
        options: dict[str, Any] = {"conv": conv, "mixed": mixed, "normed": normed, "activation": activation}
        front = Front(width, made.inputs, sizes, **options)
        asking = Front(width, {"q": made.inputs["q"]}, sizes, **options) if recalls else None
        spread = strategy_of(strategy, made, chunk=chunk, backend=backend)
        clock: dict[str, Any] = {"spec": spec, "grain": grain or chunk, "writes": writes, "index": index}
        part = LevelMemory(width, presented(made, spread), spread, sizes, front=front, asking=asking, **clock)
        if backend not in ("auto", "reference"):
            part.rehearse(torch.get_default_dtype())
        parts.append(part)
    return LeveledMemory(parts, aggregate=aggregate)
