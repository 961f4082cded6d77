"""Tiny configs: a config shrunk to what a dry run needs, and rows that cover every pair of settings."""

import inspect
import itertools
import random
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

import attrs
import torch

from hecate_core.anchoring import demand_resets_on_anchors, fitting_grain
from hecate_core.cms import DEPLOYMENTS
from hecate_core.composing import rule_of, strategy_of
from hecate_core.config import Config, Reference, make_config
from hecate_core.config.schema import Memory, Model
from hecate_core.corpus import Corpus
from hecate_core.errors import HecateError
from hecate_core.levels import LevelSpec, levels_of
from hecate_core.registry import registry

WIDTH_PER_HEAD, HEADS, DEPTH, VOCAB = 4, 2, 2, 17
CHUNK, WINDOW, PERSISTENT, CONV = 5, 3, 2, 3
BATCH, LENGTH = 2, 12  # tokens of a step: whole windows, two chunks and a ragged end
TRIES = 60  # completions tried for a pair before it counts as impossible

# Two MLPs that learn as they read and at their own optimizer steps, in every deployment.
CHAINS: list[dict[str, Any]] = [
    {
        "deployment": deployment,
        "grain": LENGTH,
        "levels": [{"rate": 0.01}, {"write_period": 2, "update_period": 2, "rate": 0.01, "reduce": "mean"}],
    }
    for deployment in DEPLOYMENTS
]

# The simplest value of the axes whose first value may be special: reasons of refusals are told beside these.
PLAIN = {"structure": "matrix", "bias": "l2", "retention": "scalar", "algorithm": "gd", "strategy": "sequential"}

# The axes that decide whether a row is possible; the others go with everything.
BOUND = (*PLAIN, "levels")

Row = dict[str, Any]
"""A value for every axis."""


def tiny(config: Config) -> Config:
    """The same model at a size that takes milliseconds; choices stay, numbers shrink.

    A text is long enough that what is written is read in it, however late; resets stay where anchors are.
    """
    model, heads = config.model, min(config.model.heads, HEADS)
    memory = model.memory
    if memory is not None:
        chunk = min(memory.chunk, CHUNK)
        grain = None if memory.grain is None else max(1, round(memory.grain * chunk / memory.chunk))
        memory = attrs.evolve(memory, chunk=chunk, grain=grain, conv=min(memory.conv, CONV))
        memory = _on_anchors(memory)
    attention = attrs.evolve(
        model.attention,
        window=min(model.attention.window, WINDOW),
        persistent=min(model.attention.persistent, PERSISTENT),
    )
    depth, length = min(model.depth, DEPTH), LENGTH * (1 + _late(model, memory) // LENGTH)
    blocks = model.cms.blocks
    if blocks is not None:  # whichever are left, or the last
        blocks = tuple(one for one in blocks if one < depth) or ((depth - 1,) if blocks else ())
    return attrs.evolve(
        config,
        data=attrs.evolve(config.data, path=None, task=None, context=None, batch=BATCH, length=length),
        model=attrs.evolve(
            model,
            width=WIDTH_PER_HEAD * heads,
            heads=heads,
            depth=depth,
            cms=attrs.evolve(model.cms, grain=length, blocks=blocks),
            vocab=min(model.vocab, VOCAB),
            attention=attention,
            memory=memory,
        ),
        schedule=attrs.evolve(config.schedule, warmup=0, decay="constant"),
        run=attrs.evolve(config.run, accumulate=min(config.run.accumulate, 2), device="cpu", threads=1),
    )


def _on_anchors(memory: Memory) -> Memory:
    """The memory with a grain that keeps resets on anchors; as it is where its parts cannot be made."""
    try:
        rule = rule_of(memory.rule)
        strategy = strategy_of(memory.strategy.plain(), rule, chunk=memory.chunk)
    except HecateError:
        return memory
    specs = [LevelSpec(**attrs.asdict(level)) for level in memory.levels]
    given = memory.grain or memory.chunk
    grain = fitting_grain(strategy, rule, specs, given)
    return memory if grain == given else attrs.evolve(memory, grain=grain)


def _late(model: Model, memory: Memory | None) -> int:
    """Tokens after which at the latest what is written is read; 0 where that cannot be said."""
    try:
        with torch.random.fork_rng(devices=[]):
            join = registry().create("composition", model.composition, width=1)
        late: int = getattr(join, "late", 0)
        if memory is not None and join.remembers:
            strategy: Any = strategy_of(memory.strategy.plain(), rule_of(memory.rule), chunk=memory.chunk)
            late = max(late, strategy.late() if hasattr(strategy, "late") else 0)
    except HecateError:
        return 0
    return late


def tiny_corpus(vocab: int, count: int = 1024) -> Corpus:
    """A text of random symbols below `vocab`, from a fixed seed."""
    draw = random.Random(0)
    text = bytes(draw.randrange(min(vocab, 256)) for _ in range(count))
    return Corpus("tiny", text, (0,), (text[:64],), "0" * 64)


def variants(kind: str, *, words: bool = True) -> list[Any]:
    """Every registered component of a kind, and each choice of its options that are bool or, with `words`, Literal."""
    found: list[Any] = []
    for name in registry().names(kind):
        found.append(name)
        try:
            factory = registry().component(kind, name)
        except HecateError:
            continue  # the kit tells about it
        found += [
            {"name": name, option: value} for option, value in _choices(factory) if words or isinstance(value, bool)
        ]
    return found


def _choices(factory: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    """Options and values other than the default."""
    function = factory.__init__ if isinstance(factory, type) else factory  # type: ignore[misc]
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # hecate: allow FL-01 -- a stranger's annotation may be anything; nothing to choose from then
        return
    for name, parameter in inspect.signature(factory).parameters.items():
        hint = hints.get(name)
        values: Sequence[Any] = get_args(hint) if get_origin(hint) is Literal else (True, False) if hint is bool else ()
        yield from ((name, value) for value in values if value != parameter.default)


def axes() -> dict[str, list[Any]]:
    """What may be chosen freely: the four knobs, and every setting of a block with few values."""
    return {
        "structure": variants("structure"),
        "bias": variants("bias"),
        "retention": variants("retention"),
        "algorithm": variants("algorithm"),
        "strategy": variants("strategy", words=False),  # how the same work is read or linked: see `worded`
        "composition": variants("composition"),
        "levels": [
            [{}],
            [{}, {"frequency": "learned"}],
            [{}, {"write_period": 2, "update_period": 2}],
            [{"reset_period": 2}],
        ],
        "aggregate": ["invsqrt", "softmax"],
        "conv": [CONV, 0],
        "norm": ["rms", "layer", "none"],
        "channel": ["swiglu", "none", *CHAINS],
        "residual": [True, False],
        "optimizer": list(registry().names("optimizer")),
        "dtype": ["float32", "float64"],
        "wall": [True, False],
        "accumulate": [1, 2],
    }


def worded() -> tuple[list[Any], list[dict[str, Any]]]:
    """Strategies with each word they may be given, and rules to try them with: the plainest, and one with a link."""
    plain = {name: PLAIN[name] for name in ("structure", "bias", "retention", "algorithm")}
    linked = [{**plain, "retention": name} for name in registry().names("retention") if _links(name)]
    bare = variants("strategy", words=False)
    return [one for one in variants("strategy") if one not in bare], [plain, *linked[:1]]


def _links(retention: str) -> bool:
    """Whether a retention has a link; not so one that cannot be made, of which the kit tells."""
    try:
        return registry().create("retention", retention).link is not None
    except HecateError:
        return False


def config_of(row: Mapping[str, Any]) -> Config:
    """The tiny config of a row; axes that it lacks have their first value, `rule` stands for the four knobs."""
    chosen = _simplest() | dict(row)
    knobs = {name: chosen[name] for name in PLAIN if name != "strategy"}
    rule, channel = chosen.get("rule"), chosen["channel"]
    table = {
        "data": {"batch": BATCH, "length": LENGTH},
        "model": {
            "width": WIDTH_PER_HEAD * HEADS,
            "heads": HEADS,
            "depth": 1,
            "vocab": VOCAB,
            "norm": chosen["norm"],
            **({"channel": channel} if isinstance(channel, str) else {"channel": "cms", "cms": channel}),
            "residual": chosen["residual"],
            "composition": chosen["composition"],
            "attention": {"window": WINDOW, "persistent": PERSISTENT},
            "memory": {
                "rule": knobs if rule is None or isinstance(rule, Reference) else rule,
                "strategy": chosen["strategy"],
                "chunk": CHUNK,
                "conv": chosen["conv"],
                "levels": chosen["levels"],
                "aggregate": chosen["aggregate"],
            },
        },
        "optimizer": chosen["optimizer"],
        "schedule": {"warmup": 0, "decay": "constant"},
        "run": {"dtype": chosen["dtype"], "wall": chosen["wall"], "accumulate": chosen["accumulate"]},
    }
    config = make_config(table, place="cell")
    if not isinstance(rule, Reference) or config.model.memory is None:
        return config
    memory = attrs.evolve(config.model.memory, rule=rule)
    return attrs.evolve(config, model=attrs.evolve(config.model, memory=memory))


def _simplest() -> Row:
    """A value for every axis that a row may leave out."""
    return {
        **PLAIN,
        "composition": registry().names("composition")[0],
        "levels": [{}],
        "aggregate": "invsqrt",
        "conv": CONV,
        "norm": "rms",
        "channel": "swiglu",
        "residual": True,
        "optimizer": "adamw",
        "dtype": "float32",
        "wall": True,
        "accumulate": 1,
    }


def impossible(row: Mapping[str, Any]) -> str | None:
    """Why the parts of a row do not fit together, or None; nothing is run."""
    knobs = {name: row[name] for name in ("structure", "bias", "retention", "algorithm")}
    try:
        rule = rule_of(knobs)
        strategy = strategy_of(row["strategy"], rule, chunk=CHUNK)
        for index, spec in enumerate(levels_of(row.get("levels"), LevelSpec)):
            demand_resets_on_anchors(strategy, rule, spec, CHUNK, f"levels[{index}]")
    except HecateError as error:
        return str(error)
    return None


def covering_rows(choices: Mapping[str, Sequence[Any]] | None = None) -> tuple[list[Row], dict[tuple[Any, ...], str]]:
    """Possible rows that together hold every pair of values of two axes, and the pairs that nothing completes.

    The latter are keyed (axis, index, axis, index) with the reason of one refusal. Deterministic.
    """
    given = dict(axes() if choices is None else choices)
    draw, rows = random.Random(0), list[Row]()
    refused: dict[tuple[Any, ...], str] = {}
    pairs = [
        (one, i, two, j)
        for one, two in itertools.combinations(given, 2)
        for i in range(len(given[one]))
        for j in range(len(given[two]))
    ]
    left = dict.fromkeys(pairs)
    while left:
        first = next(iter(left))
        chosen, reason = _completed(first, given, left, draw)
        if chosen is None:
            refused[first] = reason
            del left[first]
            continue
        for pair in _pairs_of(chosen):
            left.pop(pair, None)
        rows.append({name: given[name][index] for name, index in chosen.items()})
    return rows, refused


def _completed(
    pair: tuple[Any, ...], given: Mapping[str, Sequence[Any]], left: Mapping[Any, None], draw: random.Random
) -> tuple[dict[str, int] | None, str]:
    """A possible row that holds the pair and many that are left, or the reason of a refusal."""
    fixed = {pair[0]: pair[1], pair[2]: pair[3]}
    plain = {name: values.index(PLAIN[name]) if name in PLAIN else 0 for name, values in given.items()} | fixed
    reason = impossible({name: given[name][index] for name, index in plain.items()})
    best, most = (plain, sum(one in left for one in _pairs_of(plain))) if reason is None else (None, -1)
    for attempt in range(TRIES):
        if best is not None and attempt >= TRIES // 4:
            break
        bound = {name: given[name] for name in given if name in BOUND and name not in fixed}
        drawn = fixed | {name: draw.randrange(len(values)) for name, values in bound.items()}
        chosen = _dense(drawn, given, left, draw)
        count = sum(one in left for one in _pairs_of(chosen))
        if count > most and impossible({name: given[name][index] for name, index in chosen.items()}) is None:
            best, most = chosen, count
    return best, reason or ""


def _dense(
    fixed: Mapping[str, int], given: Mapping[str, Sequence[Any]], left: Mapping[Any, None], draw: random.Random
) -> dict[str, int]:
    """Axis by axis, in a random order, the value that holds most pairs that are left with those chosen before it."""
    place, chosen = {name: index for index, name in enumerate(given)}, dict(fixed)
    for name in draw.sample([one for one in given if one not in fixed], len(given) - len(fixed)):
        counts = []
        for value in range(len(given[name])):
            pairs = (
                (name, value, other, index) if place[name] < place[other] else (other, index, name, value)
                for other, index in chosen.items()
            )
            counts.append(sum(pair in left for pair in pairs))
        most = max(counts)
        chosen[name] = draw.choice([value for value, count in enumerate(counts) if count == most])
    return {name: chosen[name] for name in given}


def _pairs_of(chosen: Mapping[str, int]) -> Iterator[tuple[Any, ...]]:
    for one, two in itertools.combinations(chosen, 2):
        yield one, chosen[one], two, chosen[two]
