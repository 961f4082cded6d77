"""An honest comparison: same budget, same data, same conditions, paired seeds; or no winner is called."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import frozen

from hecate_core.conditions import CONDITIONS, NEEDED, Run, clashes, point, settings
from hecate_core.config import load_config
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


def compare(
    a: Sequence[Run], b: Sequence[Run], *, allow: Sequence[str] = (), score: str | None = None, among: int = 1
) -> Verdict:
    """Paired by seed; raises InputError naming every condition that differs and was not allowed.

    `among` comparisons are made side by side: by chance one of them all calls a winner as rarely as one alone would
    (Bonferroni).
    """
    for key in allow:
        if key not in CONDITIONS:
            raise InputError(f"compare: --allow {key}; no such condition{nearest(key, CONDITIONS)}")
    one, two = _by_seed(a, "A"), _by_seed(b, "B")
    if set(one) != set(two):
        raise InputError(f"compare: seeds differ, A has {sorted(one)}, B has {sorted(two)}; build the missing ones")
    if len(one) < SEEDS:
        raise InputError(f"compare: {len(one)} seeds a side; expected at least {SEEDS}, one of them decides nothing")
    differing = clashes([*a, *b])
    refused = {key: text for key, text in differing.items() if key not in allow}
    if refused:
        listed = "; ".join(f"{key}: {text}" for key, text in refused.items())
        raise InputError(f"compare: no winner is called, because these differ: {listed} (--allow KEY lets one pass)")
    chosen = _score([*a, *b], score)
    seeds = tuple(sorted(one))
    differences = tuple(_value(two[seed], chosen) - _value(one[seed], chosen) for seed in seeds)
    mean, spread, bound = weighed(differences, 1.0 - (1.0 - CONFIDENCE) / among)
    winner = None if abs(mean) <= bound * spread or mean == 0 else ("B" if SCORES[chosen] * mean > 0 else "A")
    words = tuple(f"{key}: {differing[key]}" for key in allow if key in differing)
    return Verdict(chosen, seeds, differences, mean, spread, bound, winner, words, settings(a[0].config, b[0].config))


def weighed(differences: Sequence[float], share: float = CONFIDENCE) -> tuple[float, float, float]:
    """Mean of paired differences, its standard error, and how many of those around 0 are chance (quantile of t)."""
    count = len(differences)
    if count < 2:
        raise InputError(f"compare: {count} paired differences; expected at least 2, one has no spread")
    mean = sum(differences) / count
    spread = math.sqrt(sum((d - mean) ** 2 for d in differences) / (count - 1) / count)
    return mean, spread, two_sided(share, count - 1)


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
    points = {str(point(run.config)) for run in runs}
    if len(points) > 1:
        raise InputError(f"compare: side {name} mixes {len(points)} configs; expected one config, several seeds")
    return found
