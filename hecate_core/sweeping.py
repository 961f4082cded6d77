"""A sweep: one TOML file names a grid of settings and seeds; every cell is an ordinary run.

    base = "demo"                                  # a config file or an example
    seeds = [0, 1, 2]
    [grid]
    "model.memory.rule" = ["delta", "titans"]
    "model.memory.chunk" = [16, 64]
    [cases.twin]                                   # optional: named settings that belong together
    "model.memory.writes" = false

Every case meets every point of the grid under every seed. Cells run as processes of their own, so a failed one
stops nobody, and end with the sweep however it ends. What is finished is never run again.
"""

import itertools
import json
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from hecate_core import files
from hecate_core.blueprint import compose
from hecate_core.checking.findings import check_config
from hecate_core.config import Config, config_digest, config_plain, load_config
from hecate_core.errors import CompositionError, ConfigError, HecateError, InputError, nearest
from hecate_core.registry.oneline import one_line
from hecate_core.run_folder import can_go_on, first_difference, load_manifest
from hecate_core.stopping import Stop, stopping

KEYS = ("base", "seeds", "grid", "set", "cases")
POLL_SECONDS = 0.2
HOLDER_SECONDS = 30.0  # what a build may take to end its step and save, once its sweep is gone


@frozen
class Cell:
    """One run of a sweep: its place below the sweep's folder, its point in the grid, its seed and its case."""

    path: str
    point: tuple[tuple[str, str], ...]
    seed: int
    case: str = ""

    @property
    def settings(self) -> list[str]:
        """What `hecate build --set` is told."""
        return [*(f"{key}={value}" for key, value in self.point), f"seed={self.seed}"]


@frozen
class Sweep:
    """A sweep file: base config (a path, sought beside the file first), fixed settings, and every run."""

    base: str
    fixed: tuple[str, ...]
    cells: tuple[Cell, ...]


def read_sweep(path: Path | str) -> Sweep:
    """The sweep in a TOML file; raises ConfigError, one line, for anything else."""
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {str(error).splitlines()[0]}; expected a sweep in TOML") from None
    for key in table:
        if key not in KEYS:
            raise ConfigError(f'{path}: unknown key "{key}"{nearest(key, KEYS)}')
    seeds = table.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise ConfigError(f"{path}: seeds = {seeds!r}; expected a list of integers >= 0")
    if len(set(seeds)) != len(seeds):
        raise ConfigError(f"{path}: seeds = {seeds!r}; expected each once")
    grid, fixed = table.get("grid", {}), table.get("set", {})
    if not isinstance(grid, dict) or not all(isinstance(values, list) and values for values in grid.values()):
        raise ConfigError(f'{path}: grid; expected a table of lists, such as "model.memory.rule" = ["delta"]')
    if not isinstance(fixed, dict) or not isinstance(table.get("base", ""), str) or not table.get("base"):
        raise ConfigError(f'{path}: expected base = "a config file or an example" and, optionally, a table set')
    for table_name, settings in (("grid", grid), ("set", fixed), *_tables(table.get("cases", {}))):
        if "seed" in settings:
            raise ConfigError(f'{path}: {table_name} sets "seed"; use seeds = [0, 1], which every point meets')
    points = [*itertools.product(*([(key, _toml(value)) for value in values] for key, values in grid.items()))]
    cells = tuple(
        Cell(f"{_slug(point, case)}/seed-{seed}", (*given, *point), seed, case)
        for case, given in _cases(path, table.get("cases", {}))
        for point in points
        for seed in seeds
    )
    _refuse_twins(path, cells)
    beside = path.parent / table["base"]
    base = str(beside) if beside.is_file() else table["base"]
    return Sweep(base, tuple(f"{key}={_toml(value)}" for key, value in fixed.items()), cells)


def _tables(cases: Any) -> list[tuple[str, Any]]:
    return [(f"cases.{name}", given) for name, given in cases.items()] if isinstance(cases, dict) else []


def _refuse_twins(path: Path, cells: Iterable[Cell]) -> None:
    """ConfigError where two cells would share a folder: the same point twice, or values of like names."""
    seen: dict[str, Cell] = {}
    for cell in cells:
        other = seen.setdefault(cell.path, cell)
        if other is cell:
            continue
        if other.point == cell.point:
            raise ConfigError(f"{path}: grid names a value twice; expected each once")
        key, one, two = next((k, a, b) for (k, a), (_, b) in zip(other.point, cell.point, strict=True) if a != b)
        raise ConfigError(
            f'{path}: grid "{key}": {one} and {two} would share the folder {cell.path}; '
            "expected values that differ in letters or digits, or a case for each"
        )


def _cases(path: Path, table: Any) -> list[tuple[str, tuple[tuple[str, str], ...]]]:
    """Each case with its settings; one without a name and settings where the file has none."""
    if not isinstance(table, dict) or not all(isinstance(given, dict) for given in table.values()):
        raise ConfigError(f'{path}: cases; expected tables of settings, such as [cases.twin] "model.depth" = 1')
    for case in table:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", case):
            raise ConfigError(f'{path}: case "{case}"; expected a name of letters, digits, ".", "+" and "-"')
    made = [(case, tuple((key, _toml(value)) for key, value in given.items())) for case, given in table.items()]
    return made or [("", ())]


def check_cells(sweep: Sweep, base: Path) -> Iterator[tuple[Cell, Config]]:
    """Every cell's config, composed once; CompositionError naming the cell where one cannot be built."""
    for cell in sweep.cells:
        try:
            config = load_config(base, [*sweep.fixed, *cell.settings])
            compose(config)
        except HecateError as error:
            raise CompositionError(f"sweep cell {cell.path}: {error}") from error
        yield cell, config


def demand_checked(cells: Iterable[tuple[Cell, Config]], *, tell: Callable[[str], None] = print) -> int:
    """`hecate check` of every config that differs in more than its seed; how many that were.

    Raises CompositionError with the cell and its first finding: nothing of a sweep starts before all of it passes.
    """
    passed: set[str] = set()
    for cell, config in cells:
        alike = config_digest(evolve(config, seed=0))
        if alike in passed:
            continue
        tell(f"checking {cell.path}")
        failed = check_config(config).failed
        if failed:
            more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
            raise CompositionError(f"sweep cell {cell.path}: {failed[0].line}{more}; see hecate check")
        passed.add(alike)
    return len(passed)


def demand_same(cells: Iterable[tuple[Cell, Config]], out: Path) -> None:
    """InputError where a cell's folder holds a run of another config, with the first key that differs.

    What was begun but never saved may be of any: it is begun anew.
    """
    for cell, config in cells:
        folder = out / cell.path
        if not folder.exists() or _is_remade(folder):
            continue
        if load_manifest(folder).get("config_digest") != config_digest(config):
            key = first_difference(config_plain(load_config(folder / "config.json")), config_plain(config))
            raise InputError(
                f"sweep cell {cell.path}: {folder} holds a run with another {key or 'config_digest'}; "
                "expected one of this sweep, use another --out or remove it"
            )


def _is_remade(folder: Path) -> bool:
    """Whether a run that is there holds nothing worth keeping: no end, no checkpoint, no bundle of a divergence."""
    return final_of(folder) is None and not can_go_on(folder) and not any(folder.glob("diverged-*"))


@frozen
class _Attempt:
    """A cell that runs: its process, and the log that is this attempt's alone."""

    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def end(self) -> int:
        """Its status, waited for; only then is its standard input closed, which would be one more SIGTERM."""
        self.process.wait()
        with self.process as ended:
            return ended.returncode


def run_cells(sweep: Sweep, base: Path, out: Path, *, jobs: int = 1, tell: Callable[[str], None] = print) -> None:
    """Run what is not finished, `jobs` at a time; a run that was stopped goes on from its checkpoint.

    One that diverged before its first checkpoint would again: it keeps its bundle and counts as failed. SIGINT and
    SIGTERM let every run save and end before they raise, as in a build. InputError where another process writes a cell.
    """
    running: dict[Cell, _Attempt] = {}
    with stopping() as stop:
        _wait_for_holders(sweep, out, stop, tell)
        waiting = _unfinished(sweep, out, tell)
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    cell = waiting.pop(0)
                    running[cell] = _start(sweep, cell, base, out)
                    tell(f"started {cell.path}")
                _wait_any(running, stop)
                for cell in [cell for cell, attempt in running.items() if attempt.has_ended]:
                    attempt = running.pop(cell)
                    status = attempt.end()
                    tell(f"finished {cell.path}" if status == 0 else _failure(cell, status, attempt.log))
            stop.obey()
        finally:
            for attempt in running.values():
                attempt.process.terminate()
            for attempt in running.values():
                attempt.end()


def _unfinished(sweep: Sweep, out: Path, tell: Callable[[str], None]) -> list[Cell]:
    """The cells that have to run; one that would diverge again is told."""
    found = []
    for cell in sweep.cells:
        folder = out / cell.path
        if folder.exists() and not can_go_on(folder) and any(folder.glob("diverged-*")):
            tell(f"failed before {cell.path}: it diverged, see {folder}; remove it to run it again")
        elif final_of(folder) is None:
            found.append(cell)
    return found


def _wait_for_holders(sweep: Sweep, out: Path, stop: Stop, tell: Callable[[str], None]) -> None:
    """Until nobody writes a cell: the runs of a sweep that was killed save and end by themselves, but not at once.

    InputError where one does not in HOLDER_SECONDS.
    """
    deadline, told = time.monotonic() + HOLDER_SECONDS, ""
    for cell in sweep.cells:
        folder = out / cell.path
        while folder.is_dir() and final_of(folder) is None:
            stop.obey()
            try:
                with files.exclusive(folder):
                    break
            except InputError:
                if time.monotonic() >= deadline:
                    raise
            if told != cell.path:
                tell(f"waiting for {cell.path}: another process still writes there")
                told = cell.path
            time.sleep(POLL_SECONDS)


def _failure(cell: Cell, status: int, log: Path) -> str:
    """A line about a run that failed: its status, its log, and the last that it said."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f"failed ({status}) {cell.path}, see {log}: {one_line(lines[-1]) if lines else 'it said nothing'}"


def _new_log(folder: Path) -> Path:
    """A name for what the next attempt says: `seed-0.log`, then `seed-0.2.log`, so that no two share a file."""
    names = (f"{folder.name}.{number}.log" if number > 1 else f"{folder.name}.log" for number in itertools.count(1))
    return next(log for name in names if not (log := folder.parent / name).exists())


def _wait_any(running: Mapping[Cell, _Attempt], stop: Stop) -> None:
    """Until one of them has ended; raises where somebody asked to stop."""
    stop.obey()
    while not any(attempt.has_ended for attempt in running.values()):
        with suppress(subprocess.TimeoutExpired):
            next(iter(running.values())).process.wait(POLL_SECONDS)
        stop.obey()


def _start(sweep: Sweep, cell: Cell, base: Path, out: Path) -> _Attempt:
    folder = out / cell.path
    words = [sys.executable, "-m", "hecate_core.cli.tied", "build", "--out", str(folder)]
    if can_go_on(folder):
        words.append("--resume")
    else:
        if folder.exists():  # begun, but never saved
            with files.exclusive(folder):  # by a process that is gone, not by one that outlived its sweep
                files.remove(folder)
        words.insert(4, str(base))
        words += [word for setting in (*sweep.fixed, *cell.settings) for word in ("--set", setting)]
    files.make_folder(folder.parent)
    path = _new_log(folder)
    with path.open("xb") as log:
        # A group of its own: a Ctrl-C reaches it once, through the sweep; a second signal would tear its step.
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log, process_group=0)
    return _Attempt(process, path)


def final_of(run: Path) -> dict[str, Any] | None:
    """The last record of a finished run, or None."""
    try:
        records, _ = files.read_json_lines(run / "metrics.jsonl")
    except HecateError:
        return None
    return records[-1] if records and records[-1].get("final") else None


def table_of(sweep: Sweep, out: Path) -> list[dict[str, Any]]:
    """One row per cell, in the file's order: the point, the seed, and the run's scores or "failed"."""
    rows = []
    for cell in sweep.cells:
        final = final_of(out / cell.path)
        scores = {"failed": True} if final is None else {k: v for k, v in final.items() if k not in ("final", "step")}
        case = {"case": cell.case} if cell.case else {}
        rows.append({"cell": cell.path, **case, **dict(cell.point), "seed": cell.seed, **scores})
    return rows


def _toml(value: object) -> str:
    """A value as TOML writes it on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


def _slug(point: tuple[tuple[str, str], ...], case: str = "") -> str:
    """A folder name that tells the case and the point: `twin,rule-delta,chunk-16`."""
    parts = [f"{key.rsplit('.', 1)[-1]}-{re.sub(r'[^A-Za-z0-9.+-]+', '-', value).strip('-')}" for key, value in point]
    return ",".join([case, *parts] if case else parts) or "base"
