"""Results that can be repeated: runs packed into one JSON file, and what a replay is compared with.

A file holds, per run, the whole config and manifest, some of the records of `metrics.jsonl`, and a digest over all
of them. `FILE.json:CELL` names a run in it, for a replay. Seconds count nowhere: they never repeat.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from hecate_core import files
from hecate_core.config import Config, config_plain, load_config, make_config
from hecate_core.errors import CheckpointError, InputError, nearest
from hecate_core.run_folder import load_manifest

SCHEMA = "hecate.evidence/1"
PACKED = {"cell", "config", "manifest", "count", "digest", "records"}  # what a packed run holds
KEPT = 25  # records that a packed run keeps, spread over its steps; the digest is over all
PLACE = (
    "machine",
    "threads",
    "versions",
    "numerics",
    "commit",
    "plugins",
    "data",
    "start",
)  # in a manifest: what bits depend on

Record = dict[str, Any]


@frozen
class Recorded:
    """A finished run as it was: config, manifest, records (all or some), how many there were, and their digest."""

    place: str
    config: Config
    manifest: Mapping[str, Any]
    records: tuple[Record, ...]
    count: int
    digest: str


def recorded(place: str | Path) -> Recorded:
    """The run in a folder, or in `FILE.json:CELL`; CheckpointError where there is none or it is damaged."""
    text = str(place)
    name, _, cell = text.partition(".json:")
    if cell or text.endswith(".json"):
        file = Path(f"{name}.json" if cell else text)
        return _unpacked(file, cell)
    folder = Path(text)
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: no run is here (no config.json); expected one made by hecate build")
    records = numbers(folder)
    config, manifest = load_config(folder / "config.json"), load_manifest(folder)
    return Recorded(text, config, manifest, tuple(records), len(records), digest(records))


def difference(old: Recorded, new: Recorded) -> str | None:
    """The first number in which two runs differ, or None; names what else differs that bits depend on."""
    found = _first(old, new)
    if found is None:
        return None
    elsewhere = [key for key in PLACE if old.manifest.get(key) != new.manifest.get(key)]
    tail = f" (also different: {', '.join(elsewhere)}; bits repeat on one machine, thread count, code and text)"
    return found + (tail if elsewhere else "")


def _first(old: Recorded, new: Recorded) -> str | None:
    fresh = {(record["step"], bool(record.get("final"))): record for record in new.records}
    for record in old.records:
        step = record["step"]
        other = fresh.get((step, bool(record.get("final"))))
        if other is None:
            return f"step {step}: no record; {old.count} records against {new.count}"
        for key in sorted(set(record) | set(other)):
            if record.get(key) != other.get(key):
                return f"step {step}: {key} {record.get(key)!r} against {other.get(key)!r}"
    if old.count != new.count:
        return f"{old.count} records against {new.count}"
    return None if old.digest == new.digest else "a record that the file does not keep"


def pack(runs: Iterable[tuple[str, Path]]) -> dict[str, Any]:
    """Finished runs, each with its name, as one table for a JSON file; its `id` is the digest of all of them."""
    packed = []
    for cell, folder in runs:
        run = recorded(folder)
        if not run.records or not run.records[-1].get("final"):
            raise InputError(f"{folder}: is not finished; continue it with: hecate build --out {folder} --resume")
        packed.append({
            "cell": cell,
            "config": config_plain(run.config),
            "manifest": dict(run.manifest),
            "count": run.count,
            "digest": run.digest,
            "records": _thinned(run.records),
        })  # fmt: skip
    return {"schema": SCHEMA, "id": _hash(packed)[:12], "runs": packed}


def load_evidence(path: Path | str) -> dict[str, Any]:
    """A packed file; CheckpointError where it is damaged or its id is not that of its runs."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {str(error).splitlines()[0]}; expected packed runs") from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise CheckpointError(f'{path}: holds no packed runs; expected schema "{SCHEMA}"')
    if found.get("id") != _hash(found.get("runs"))[:12]:
        raise CheckpointError(f"{path}: was changed by hand, its id is not that of its runs; make it anew")
    runs = found.get("runs")
    if not isinstance(runs, list) or not all(isinstance(run, dict) and run.keys() >= PACKED for run in runs):
        raise CheckpointError(f'{path}: "runs" is no list of packed runs; expected {", ".join(sorted(PACKED))} in each')
    for run in runs:
        make_config(run["config"], place=f"{path}:{run['cell']}")
    return found


def written_rules(found: Mapping[str, Any]) -> set[str]:
    """The rules, by name, whose memories the runs of a packed file wrote."""
    memories = [run["config"]["model"]["memory"] for run in found["runs"]]
    rules = [memory["rule"] for memory in memories if memory is not None and memory.get("writes", True)]
    return {name for rule in rules if (name := rule if isinstance(rule, str) else rule.get("name"))}


def save_evidence(path: Path | str, packed: Mapping[str, Any]) -> None:
    """One line per run, so that a change of one run is a change of one line."""
    head = json.dumps({key: value for key, value in packed.items() if key != "runs"}, allow_nan=False)
    lines = [json.dumps(run, sort_keys=True, allow_nan=False) for run in packed["runs"]]
    files.write_text(path, head[:-1] + ', "runs": [\n' + ",\n".join(lines) + "\n]}\n")


def numbers(folder: Path) -> list[Record]:
    """Every record of a run without its seconds."""
    records, _ = files.read_json_lines(folder / "metrics.jsonl")
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


def digest(records: Sequence[Record]) -> str:
    """SHA-256 in hex over the records in canonical JSON."""
    return _hash(list(records))


def _unpacked(file: Path, cell: str) -> Recorded:
    runs = {run["cell"]: run for run in load_evidence(file)["runs"]}
    if not cell and len(runs) == 1:
        (cell,) = runs
    if cell not in runs:
        raise InputError(f'{file}: no run "{cell}"{nearest(cell, runs)}')
    run = runs[cell]
    config = make_config(run["config"], place=f"{file}:{cell}")
    return Recorded(f"{file}:{cell}", config, run["manifest"], tuple(run["records"]), run["count"], run["digest"])


def _thinned(records: Sequence[Record]) -> list[Record]:
    """The last record, every one with a score, and some between, evenly spread."""
    every = max(1, len(records) // KEPT)
    scored = {"accuracy", "bits_per_byte"}
    return [
        one for n, one in enumerate(records) if n % every == 0 or n == len(records) - 1 or scored & set(one)
    ]  # fmt: skip


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
