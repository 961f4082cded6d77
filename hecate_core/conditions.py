"""What must be equal before two runs may be compared, and a difference in words."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from hecate_core.config import Config, Reference, config_plain
from hecate_core.errors import HecateError
from hecate_core.registry import registry

SHOWN = 60  # characters of a value


@frozen
class Run:
    """One finished run of a side."""

    path: Path
    config: Config
    manifest: Mapping[str, Any]
    final: Mapping[str, Any]


class Own(dict[str, Any]):
    """A table of which a side may have entries that the other has no use for; only what both have can clash."""


# Each is a value, or a table that is compared entry by entry.
CONDITIONS: dict[str, Callable[[Run], Any]] = {
    "budget": lambda run: run.final["step"] * _tokens(run),  # what it read, whatever its config says
    "batch": lambda run: _tokens(run),
    "data": lambda run: {
        **run.manifest["data"],
        "length": _length(run),
        "context": run.config.data.context,
        "task": _plain(run.config.data.task),
    },
    "start": lambda run: Own({f"seed {run.config.seed}": run.manifest.get("start")}),  # may be another for every seed
    "documents": lambda run: run.config.data.documents,
    "evaluation": lambda run: {"chance": run.final.get("chance")},
    "optimizer": lambda run: _plain(run.config.optimizer),
    "clip": lambda run: run.config.run.clip,
    "schedule": lambda run: config_plain(run.config)["schedule"],
    "precision": lambda run: {"dtype": run.manifest["dtype"], "autocast": run.manifest["autocast"]},
    "compile": lambda run: run.manifest.get("compiled", False),
    "device": lambda run: run.manifest["device"],
    "backends": lambda run: _backends(run.manifest),
    "machine": lambda run: run.manifest["machine"],
    "threads": lambda run: run.manifest["threads"],
    "versions": lambda run: run.manifest["versions"],
    "commit": lambda run: {key: run.manifest.get(key) for key in ("commit", "dirty")},
    "plugins": lambda run: Own({p["distribution"]: (p["version"], p["digest"]) for p in run.manifest["plugins"]}),
    "numerics": lambda run: run.manifest.get("numerics"),
    "resumed": lambda run: _elsewhere(run.manifest),
    "wall": lambda run: run.config.run.wall,
}
NEEDED = ("data", "dtype", "autocast", "device", "machine", "threads", "versions", "plugins")  # of a manifest
_SURROUNDINGS = (
    "versions",
    "numerics",
    "threads",
    "machine",
    "commit",
    "dirty",
)  # of a start, as the manifest has them


def clashes(runs: Sequence[Run]) -> dict[str, str]:
    """Every condition in which not all runs agree, with two of its values."""
    found = {}
    for key, read in CONDITIONS.items():
        values = [read(run) for run in runs]
        for one, two in itertools.combinations(values, 2):
            words = _clash(one, two)
            if words is not None:
                found[key] = words
                break
    return found


def settings(a: Config, b: Config) -> tuple[str, ...]:
    """The settings of A and B that differ, each with both values."""
    one, two = (_flat(config_plain(point(config))) for config in (a, b))
    return tuple(
        f"{key} {_against(one.get(key, 'none'), two.get(key, 'none'))}"
        for key in dict.fromkeys([*one, *two])
        if one.get(key) != two.get(key)
    )


def point(config: Config) -> Config:
    """The config whatever its seed."""
    return evolve(config, seed=0)


def _clash(one: Any, two: Any) -> str | None:
    """How two conditions differ, or None; of two tables the first entry that does."""
    if not isinstance(one, Mapping) or not isinstance(two, Mapping):
        return None if one == two else _against(one, two)
    given = [key for key in one if key in two] if isinstance(one, Own) else dict.fromkeys([*one, *two])
    flat, flat_two = (_flat({key: table.get(key) for key in given}) for table in (one, two))
    for key in dict.fromkeys([*flat, *flat_two]):
        if flat.get(key) != flat_two.get(key):
            return f"{key} {_against(flat.get(key, 'none'), flat_two.get(key, 'none'))}"
    return None


def _against(one: Any, two: Any) -> str:
    """Both values; of long ones the part where they begin to differ."""
    texts = [str(one), str(two)]
    if max(map(len, texts)) > SHOWN:
        same = next((at for at, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
        start = max(0, same - SHOWN // 3)
        texts = [_cut(text, start) for text in texts]
    return " against ".join(texts)


def _cut(text: str, start: int) -> str:
    return "..." * (start > 0) + text[start : start + SHOWN] + "..." * (len(text) > start + SHOWN)


def _flat(plain: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """A plain table by dotted keys, rows of a list of tables by their place."""
    found: dict[str, Any] = {}
    for key, value in plain.items():
        if isinstance(value, list | tuple) and any(isinstance(one, Mapping) for one in value):
            value = {str(place): one for place, one in enumerate(value)}
        found |= _flat(value, f"{path}{key}.") if isinstance(value, Mapping) and value else {f"{path}{key}": value}
    return found


def _tokens(run: Run) -> int:
    """Of one optimizer step."""
    return run.config.data.batch * _length(run) * run.config.run.accumulate


def _length(run: Run) -> int:
    """Tokens of a row: a task has its own, whatever `data.length` says; that stands in where the task is not here."""
    data = run.config.data
    if data.task is None:
        return data.length
    try:
        tokens: int = registry().create("task", data.task).tokens
    except HecateError:
        return data.length
    return tokens


def _backends(manifest: Mapping[str, Any]) -> Own:
    """Where ops ran; a side without an op that has kernels has nothing to say."""
    ran = sorted({str(one.get("runs")) for one in manifest.get("backends", [])})
    return Own({"runs": ", ".join(ran)} if ran else {})


def _plain(ref: Reference | None) -> Any:
    return None if ref is None else ref.plain()


def _elsewhere(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Where a run went on under other surroundings than it was begun in; mostly nowhere."""
    changes = (
        {key: one[key] for key in _SURROUNDINGS if key in one and one[key] != manifest.get(key)}
        for one in manifest.get("resumed", [])
    )
    return [change for change in changes if change]
