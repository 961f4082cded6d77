"""An honest comparison: same budget, same data, same conditions, paired seeds; or no winner is called."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from hecate_core.config import Config, Reference, config_plain, load_config
from hecate_core.errors import CheckpointError, InputError, nearest
from hecate_core.run_folder import load_manifest
from hecate_core.student import two_sided
from hecate_core.sweeping import final_of

SEEDS = 3  # the fewest per side
CONFIDENCE = 0.95  # that two sides which do not differ have no winner
# Score -> sign of better; the first that all runs have is compared where nobody chose.
SCORES = {
    "bits_per_byte": -1.0,
    "accuracy": 1.0,
    "bits_per_byte_memory_off": -1.0,
    "accuracy_memory_off": 1.0,
    "bits_per_byte_learning": -1.0,
}


@frozen
class Run:
    """One finished run of a side."""

    path: Path
    config: Config
    manifest: Mapping[str, Any]
    final: Mapping[str, Any]


# What must be equal before a difference means anything, and where it stands.
CONDITIONS: dict[str, Callable[[Run], Any]] = {
    "budget": lambda run: run.final["step"] * _tokens(run.config),  # what it read, whatever its config says
    "batch": lambda run: _tokens(run.config),
    "data": lambda run: (
        run.manifest["data"],
        run.config.data.length,
        run.config.data.context,
        _plain(run.config.data.task),
    ),
    "documents": lambda run: run.config.data.documents,
    "optimizer": lambda run: _plain(run.config.optimizer),
    "clip": lambda run: run.config.run.clip,
    "schedule": lambda run: str(run.config.schedule),
    "precision": lambda run: (run.manifest["dtype"], run.manifest["autocast"]),
    "compile": lambda run: run.manifest.get("compiled", False),
    "device": lambda run: run.manifest["device"],
    "machine": lambda run: run.manifest["machine"],
    "threads": lambda run: run.manifest["threads"],
    "versions": lambda run: run.manifest["versions"],
    "commit": lambda run: (run.manifest.get("commit"), run.manifest.get("dirty")),
    "plugins": lambda run: _shared_plugins(run.manifest),
    "numerics": lambda run: run.manifest.get("numerics"),
    "resumed": lambda run: _elsewhere(run.manifest),
    "wall": lambda run: run.config.run.wall,
}
SURROUNDINGS = ("versions", "numerics", "threads", "machine", "commit", "dirty")  # of a start, as the manifest has them
NEEDED = ("data", "dtype", "autocast", "device", "machine", "threads", "versions", "plugins")


@frozen
class Verdict:
    """What a comparison found: per seed `b - a` in the score, its mean, spread, and who is better."""

    score: str
    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    mean: float
    spread: float  # standard error of the mean of the paired differences
    bound: float  # standard errors within which the mean of as many seeds lies by chance, CONFIDENCE of the time
    winner: str | None  # "A", "B" or None: the mean lies within the bound
    allowed: tuple[str, ...]  # differences that were let pass, in words
    settings: tuple[str, ...]  # every setting in which the sides differ, the memory's included, in words


def side(folder: Path | str) -> list[Run]:
    """The runs of one side: a run, a folder of runs (a sweep's cell), or several joined by commas."""
    text = str(folder)
    paths = [Path(part) for part in text.split(",") if part] if not Path(text).exists() else [Path(text)]
    found: list[Path] = []
    for path in paths:
        found += (
            [path] if (path / "manifest.json").is_file() else sorted(p.parent for p in path.glob("*/manifest.json"))
        )
    if not found:
        raise InputError(f"compare: {text} holds no run; expected a run folder, a folder of runs, or RUN,RUN,RUN")
    return [_run(path) for path in found]


def _run(path: Path) -> Run:
    final = final_of(path)
    if final is None:
        raise InputError(f"compare: {path} is not finished; continue it with: hecate build --out {path} --resume")
    if type(final.get("step")) is not int:
        raise CheckpointError(f"{path / 'metrics.jsonl'}: final step = {final.get('step')!r}; expected an integer")
    manifest = load_manifest(path)
    missing = [key for key in NEEDED if key not in manifest]
    if missing:
        raise CheckpointError(f'{path / "manifest.json"}: no "{missing[0]}"; expected the manifest of a build')
    if not isinstance(plugins := manifest["plugins"], list) or not all(_is_plugin(one) for one in plugins):
        raise CheckpointError(f"{path / 'manifest.json'}: plugins; expected a list of distribution, version, digest")
    return Run(path, load_config(path / "config.json"), manifest, final)


def _is_plugin(one: object) -> bool:
    return isinstance(one, Mapping) and {"distribution", "version", "digest"} <= set(one)


def compare(a: Sequence[Run], b: Sequence[Run], *, allow: Sequence[str] = (), score: str | None = None) -> Verdict:
    """Paired by seed; raises InputError naming every condition that differs and was not allowed."""
    for key in allow:
        if key not in CONDITIONS:
            raise InputError(f"compare: --allow {key}; no such condition{nearest(key, CONDITIONS)}")
    one, two = _by_seed(a, "A"), _by_seed(b, "B")
    if set(one) != set(two):
        raise InputError(f"compare: seeds differ, A has {sorted(one)}, B has {sorted(two)}; build the missing ones")
    if len(one) < SEEDS:
        raise InputError(f"compare: {len(one)} seeds a side; expected at least {SEEDS}, one of them decides nothing")
    differing = _differences([*a, *b])
    refused = {key: text for key, text in differing.items() if key not in allow}
    if refused:
        listed = "; ".join(f"{key}: {text}" for key, text in refused.items())
        raise InputError(f"compare: no winner is called, because these differ: {listed} (--allow KEY lets one pass)")
    chosen = _score([*a, *b], score)
    seeds = tuple(sorted(one))
    differences = tuple(_value(two[seed], chosen) - _value(one[seed], chosen) for seed in seeds)
    mean, spread, bound = weighed(differences)
    winner = None if abs(mean) <= bound * spread or mean == 0 else ("B" if SCORES[chosen] * mean > 0 else "A")
    words = tuple(f"{key}: {differing[key]}" for key in allow if key in differing)
    return Verdict(chosen, seeds, differences, mean, spread, bound, winner, words, _settings(a[0].config, b[0].config))


def weighed(differences: Sequence[float]) -> tuple[float, float, float]:
    """Mean of paired differences, its standard error, and how many of those around 0 are chance (quantile of t)."""
    count = len(differences)
    if count < 2:
        raise InputError(f"compare: {count} paired differences; expected at least 2, one has no spread")
    mean = sum(differences) / count
    spread = math.sqrt(sum((d - mean) ** 2 for d in differences) / (count - 1) / count)
    return mean, spread, two_sided(CONFIDENCE, count - 1)


def _score(runs: Sequence[Run], asked: str | None) -> str:
    """The score that is compared: the one asked for, else the first that every run has."""
    if asked is not None and asked not in SCORES:
        raise InputError(f"compare: --score {asked}; no such score{nearest(asked, SCORES)}")
    shared = [name for name in SCORES if all(name in run.final for run in runs)]
    if not shared:
        raise InputError("compare: the runs share no score; evaluate both sides on the same task")
    if asked is not None and asked not in shared:
        raise InputError(f"compare: --score {asked}; not every run has it, all have: {', '.join(shared)}")
    return asked or shared[0]


def _value(run: Run, score: str) -> float:
    value = run.final[score]
    if type(value) not in (int, float) or not math.isfinite(value):
        raise CheckpointError(f"{run.path / 'metrics.jsonl'}: final {score} = {value!r}; expected a finite number")
    return float(value)


def _by_seed(runs: Sequence[Run], name: str) -> dict[int, Run]:
    found: dict[int, Run] = {}
    for run in runs:
        seed = run.config.seed
        if seed in found:
            raise InputError(f"compare: side {name} has seed {seed} twice, {found[seed].path} and {run.path}")
        found[seed] = run
    points = {str(_point(run.config)) for run in runs}
    if len(points) > 1:
        raise InputError(f"compare: side {name} mixes {len(points)} configs; expected one config, several seeds")
    return found


def _differences(runs: Sequence[Run]) -> dict[str, str]:
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


def _settings(a: Config, b: Config) -> tuple[str, ...]:
    """The settings of A and B that differ, each with both values."""
    one, two = (_flat({**config_plain(config), "seed": 0}) for config in (a, b))
    return tuple(
        f"{key} {_short(one.get(key, 'none'))} against {_short(two.get(key, 'none'))}"
        for key in dict.fromkeys([*one, *two])
        if one.get(key) != two.get(key)
    )


def _flat(plain: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """A plain config by dotted keys."""
    found: dict[str, Any] = {}
    for key, value in plain.items():
        found |= _flat(value, f"{path}{key}.") if isinstance(value, Mapping) and value else {f"{path}{key}": value}
    return found


def _clash(one: Any, two: Any) -> str | None:
    """How two conditions differ, or None; of two tables only what both have can clash."""
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        clashes = (
            f"{key} {_short(one[key])} against {_short(two[key])}" for key in one if key in two and one[key] != two[key]
        )
        return next(clashes, None)
    return None if one == two else f"{_short(one)} against {_short(two)}"


def _tokens(config: Config) -> int:
    return config.data.batch * config.data.length * config.run.accumulate


def _plain(ref: Reference | None) -> Any:
    return None if ref is None else ref.plain()


def _elsewhere(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Where a run went on under other surroundings than it was begun in; mostly nowhere."""
    changes = (
        {key: one[key] for key in SURROUNDINGS if key in one and one[key] != manifest.get(key)}
        for one in manifest.get("resumed", [])
    )
    return [change for change in changes if change]


def _point(config: Config) -> Any:
    from attrs import evolve

    return evolve(config, seed=0)


def _shared_plugins(manifest: Mapping[str, Any]) -> Any:
    """Version and digest by distribution; a package that only one side needs is part of what is compared."""
    return {p["distribution"]: (p["version"], p["digest"]) for p in manifest["plugins"]}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
