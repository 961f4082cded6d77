"""A run on disk: resolved config, manifest, metrics line by line, checkpoints.

RUN/config.json     every setting, defaults included; a run that goes on with more steps says so here
RUN/manifest.json   what the run was made with and on; written before the first step
RUN/metrics.jsonl   one record per step; everything but "seconds" repeats bit for bit
RUN/checkpoints/step-N/
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from hecate_core import files, provenance
from hecate_core.backends import Choice
from hecate_core.blueprint import compose
from hecate_core.checkpoint import CheckpointFolder, complete, load
from hecate_core.config import Config, config_digest, config_json, config_plain, make_config
from hecate_core.corpus import Corpus
from hecate_core.errors import CheckpointError, InputError
from hecate_core.model import LanguageModel
from hecate_core.registry.oneline import told
from hecate_core.shapes import Tensor

Record = dict[str, Any]
Parts = Mapping[str, Mapping[str, Tensor]]


class Saved(Protocol):
    """What a run folder asks of a build."""

    config: Config
    corpus: Corpus
    plugins: list[dict[str, str]]
    backends: list[Choice]
    started: Record

    @property
    def steps_done(self) -> int:
        """Optimizer steps so far."""
        ...

    def parts(self) -> tuple[Parts, Record]:
        """Tensors by part and plain values: everything that the next step depends on."""
        ...


class RunFolder:
    """The files of one run under `path`, which is made when the run begins."""

    def __init__(self, path: Path | str, *, keep: int = 3) -> None:
        self.path, self._keep = Path(path), keep
        self._checkpoints: CheckpointFolder | None = None

    @property
    def checkpoints(self) -> CheckpointFolder:
        """The run's checkpoints; opening them makes the folder, so only the run's one writer does."""
        if self._checkpoints is None:
            self._checkpoints = CheckpointFolder(self.path / "checkpoints", keep=self._keep)
        return self._checkpoints

    @property
    def metrics(self) -> Path:
        """The file of metrics, one JSON object per line."""
        return self.path / "metrics.jsonl"

    @contextmanager
    def alone(self, *, resume: bool = False) -> Iterator[None]:
        """Be the run's one writer in the body; InputError where another process is, or where a run is there already.

        With `resume` the run has to be there: CheckpointError where it is not.
        """
        if resume:
            self._demand_run()
        else:
            self._refuse_run()
            files.make_folder(self.path)
        with files.exclusive(self.path):
            yield

    def _demand_run(self) -> None:
        if not (self.path / "config.json").is_file():
            raise CheckpointError(f"{self.path}: no run is here (no config.json); expected one made by hecate build")

    def _refuse_run(self) -> None:
        if (self.path / "manifest.json").exists():
            if can_go_on(self.path):
                raise InputError(f"{self.path}: holds a run already; use --resume to continue it or another --out")
            raise InputError(f"{self.path}: holds a run that ended before its first checkpoint; use another --out")

    def begin(self, made: Saved) -> None:
        """Write config and manifest; without them no run starts. InputError where a run is there already."""
        self._refuse_run()
        files.make_folder(self.path)
        files.write_text(self.path / "config.json", config_json(made.config))
        files.write_json(self.path / "manifest.json", manifest(made))

    def go_on(self, made: Saved) -> None:
        """Let the files say that the run goes on here, with and on what; the metrics are cut back to its step.

        Only what has been restored may: a run that cannot go on keeps every record it had.
        """
        found, backends = load_manifest(self.path), [choice.record() for choice in made.backends]
        resumed = [*found.get("resumed", []), {"step": made.steps_done, "backends": backends, **surroundings()}]
        # A kill between the two leaves the old digest beside the new config; whatever goes on next writes both.
        files.write_text(self.path / "config.json", config_json(made.config))
        now = {"config_digest": config_digest(made.config), "resumed": resumed}
        files.write_json(self.path / "manifest.json", {**found, **now})
        if self.metrics.exists():
            records, _ = files.read_json_lines(self.metrics)
            files.write_json_lines(self.metrics, _until(records, made.steps_done, made.config))

    def append(self, record: Record) -> None:
        """Add one record to the metrics."""
        files.append_json(self.metrics, record)

    def save(self, made: Saved) -> Path:
        """A checkpoint of the present step; the oldest beyond `keep` go."""
        parts, meta = made.parts()
        return self.checkpoints.save(made.steps_done, parts, meta)

    def newest_checkpoint(self, config: Config) -> tuple[dict[str, dict[str, Tensor]], Record]:
        """The last complete checkpoint; CheckpointError for another config. Nothing on the disk changes.

        Only the number of steps and the intervals may differ: they say how long to go on, not what was built.
        InputError for fewer steps than are done, because no config could repeat such a run.
        """
        self._demand_run()
        parts, meta = self.checkpoints.load()
        recorded = make_config(meta["config"], place=str(self.path))  # settings that came later have their defaults
        was, now = _essence(config_plain(recorded)), _essence(config_plain(config))
        if was != now:
            key = first_difference(was, now)
            raise CheckpointError(f"{self.path}: the run was made with another {key}; resume with its own config.json")
        done = meta["conductor"]["step"]
        if config.run.steps < done:
            raise InputError(f"{self.path}: run.steps = {config.run.steps}, but {done} are done; expected no fewer")
        return parts, meta


def manifest(made: Saved) -> Record:
    """What a run is made with and on; whoever knows all of it can repeat the run."""
    config = made.config
    data: Record = {"name": made.corpus.name, "sha256": made.corpus.sha256}
    if config.data.task is not None:
        data["task"] = config_plain(config)["data"]["task"]
    return {
        "schema": "hecate.run/1",
        "config_digest": config_digest(config),
        "seed": config.seed,
        "data": data,
        **({"start": made.started} if made.started else {}),
        "plugins": made.plugins,
        "backends": [choice.record() for choice in made.backends],
        "device": config.run.device,
        "dtype": config.run.dtype,
        "autocast": config.run.autocast,
        **surroundings(),
        "resumed": [],
    }


def _until(records: Sequence[Record], done: int, config: Config) -> list[Record]:
    """The records of the steps before `done`; damaged ones go.

    Where a run ended but a longer one evaluates, the final scores stay with the last step, as if it had never ended.
    """
    sound = [record for record in records if type(record.get("step")) is int]
    kept = [record for record in sound if record["step"] < done and not record.get("final")]
    interval = config.run.eval_interval
    if kept and interval and done % interval == 0 and done < config.run.steps:
        final = next((record for record in sound if record.get("final") and record["step"] == done), {})
        kept[-1] = kept[-1] | {key: value for key, value in final.items() if key not in ("step", "final")}
    return kept


def surroundings() -> Record:
    """What may differ from one start of a run, or one scoring of it, to the next."""
    return {
        "versions": provenance.versions(),
        "numerics": provenance.precision(),
        "threads": torch.get_num_threads(),
        "machine": provenance.machine(),
        **provenance.commit(),
    }


def checkpoint_of(path: Path | str, step: int | None = None) -> Path:
    """The folder of a run's checkpoint (default: the last); CheckpointError where there is none."""
    path = Path(path)
    if not (path / "config.json").is_file():
        raise CheckpointError(f"{path}: no run is here (no config.json); expected a folder made by hecate build")
    found = complete(path / "checkpoints") if (path / "checkpoints").is_dir() else {}
    if not found or (step is not None and step not in found):
        have = ", ".join(map(str, found)) or "none"
        raise CheckpointError(f"{path}: no such checkpoint; complete are: {have}")
    return found[max(found) if step is None else step]


def load_run(path: Path | str, step: int | None = None) -> tuple[LanguageModel, Config]:
    """The model of a run at a checkpoint (default: the last) and its config.

    Raises CheckpointError where there is none or it does not fit, PluginError where a plugin it needs is missing.
    """
    parts, meta = load(checkpoint_of(path, step))
    config = make_config(meta["config"], place=str(path))
    model = compose(config).to(dtype=getattr(torch, config.run.dtype))
    load_module(model, parts["model"], str(path))
    return model, config


def can_go_on(path: Path | str) -> bool:
    """Whether a run folder holds a complete checkpoint."""
    checkpoints = Path(path) / "checkpoints"
    return checkpoints.is_dir() and bool(complete(checkpoints))


def load_manifest(path: Path | str) -> Record:
    """The manifest of a run; CheckpointError where it is missing or damaged."""
    place = Path(path) / "manifest.json"
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{place}: {told(error)}; expected the manifest of a run") from None
    if not isinstance(found, dict) or found.get("schema") != "hecate.run/1":
        raise CheckpointError(f'{place}: no manifest of a run; expected schema "hecate.run/1"')
    resumed = found.get("resumed", [])
    if not isinstance(resumed, list) or not all(isinstance(one, dict) for one in resumed):
        raise CheckpointError(f'{place}: "resumed" is {resumed!r:.60}; expected a list of tables')
    return found


def load_module(module: torch.nn.Module, tensors: Mapping[str, Tensor], place: str = "model") -> None:
    """Copy tensors into a module; CheckpointError for a name or a shape that differs."""
    wanted = module.state_dict()
    demand_names(place, wanted, tensors)
    module.load_state_dict(dict(tensors))


def demand_names(place: str, wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """CheckpointError unless both hold the same names with the same shapes and dtypes."""
    odd = sorted(set(wanted) ^ set(given))
    if odd:
        state = "is missing" if odd[0] in wanted else "is not expected"
        raise CheckpointError(f"{place}: {odd[0]} {state}; the checkpoint belongs to another model")
    for name, tensor in wanted.items():
        other = given[name]
        if tensor.shape != other.shape or tensor.dtype != other.dtype:
            raise CheckpointError(
                f"{place}: {name} is {other.dtype} {list(other.shape)}; expected {tensor.dtype} {list(tensor.shape)}"
            )


def _essence(plain: Mapping[str, Any]) -> Record:
    """A config without what only says how long and how often."""
    free = {"steps", "log_interval", "eval_interval", "checkpoint_interval", "keep", "sinks"}
    run = {key: value for key, value in plain["run"].items() if key not in free}
    # A cosine knows the last step; then the number of steps is part of what was built.
    if plain["schedule"]["decay"] != "constant":
        run["steps"] = plain["run"]["steps"]
    return {**plain, "run": run}


def first_difference(one: Any, two: Any, path: str = "") -> str:
    """The dotted key of the first value in which two plain configs differ; empty where none does."""
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        for key in [*one, *two]:
            if one.get(key) != two.get(key):
                return first_difference(one.get(key), two.get(key), f"{path}.{key}".lstrip("."))
    return path
