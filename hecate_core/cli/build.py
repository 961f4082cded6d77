"""`hecate build`: make a model from a config; continue a run; repeat one bit for bit."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from hecate_core.cli.output import Output
from hecate_core.cli.progress import Progress
from hecate_core.errors import ExitCode, InputError

if TYPE_CHECKING:
    from hecate_core.config import Config

ConfigFile = Annotated[str | None, Argument(metavar="[CONFIG]", help="A TOML file, or the name of an example (demo).")]
Settings = Annotated[list[str] | None, Option("--set", metavar="a.b=v", help="Override one setting; repeatable.")]
Out = Annotated[Path | None, Option("--out", metavar="DIR", help="The run folder (default: runs/RULE-N).")]
Resume = Annotated[bool, Option("--resume", help="Continue the run in --out from its last checkpoint.")]
Replay = Annotated[
    str | None, Option("--replay", metavar="RUN", help="Repeat a run (or FILE.json:CELL), compare bits.")
]


def build(
    output: Output,
    config: ConfigFile = None,
    settings: Settings = None,
    out: Out = None,
    resume: Resume = False,
    replay: Replay = None,
) -> int:
    """Build a model on text, from a config or an example."""
    import torch

    from hecate_core import building
    from hecate_core.evidence import difference, recorded
    from hecate_core.registry import install, registry
    from hecate_core.run_folder import RunFolder, load_manifest

    if out is not None and out == Path():  # what an empty word becomes; a run has a folder of its own
        raise InputError("--out: the present folder, or no path; expected a folder for the run, such as runs/mine")
    chosen = _config(config, settings or [], out, resume=resume, replay=replay)
    install(disable=chosen.plugins.disable)
    torch.set_num_threads(chosen.run.threads)
    path = out if out is not None else building.new_run_folder(Path("runs"), chosen)
    folder = RunFolder(path, keep=chosen.run.keep)
    for complaint in registry().complaints():
        output.note(complaint)
    progress: Progress | None = None
    final: dict[str, Any] = {}

    def watch(record: dict[str, Any]) -> None:
        nonlocal progress
        if progress is None:
            output.note(f"run {path}")
            for choice in load_manifest(path).get("backends", []):
                output.note(f"run {choice['op']} on {choice['runs']} ({choice['reason']})")
            progress = output.progress(chosen.run.steps, interval=chosen.run.log_interval, done=record["step"])
        if record.get("final"):
            final.update(record)
        else:
            progress.step(loss=record["loss"], tokens=record["tokens"], seconds=record["seconds"])

    try:
        building.build(chosen, folder, resume=resume, watch=watch)
    except KeyboardInterrupt:
        output.note(f"interrupted; continue with: hecate build --out {path} --resume")
        raise
    finally:
        if progress is not None:
            progress.close()
    record = {"path": str(path), **final}
    differs = difference(recorded(replay), recorded(path)) if replay is not None else None
    if replay is not None:
        record["replay"] = {"run": replay, "difference": differs}
    output.result("hecate.runs/1", {"runs": [record]}, _lines(path, final, replay, differs))
    return ExitCode.FOUND if differs else ExitCode.DONE


def example(name: str) -> Path:
    """The file of an example that travels with the package; InputError for a name it does not have."""
    from importlib import resources

    from hecate_core.errors import nearest

    folder = Path(str(resources.files("hecate_core.examples")))
    known = sorted(path.stem for path in folder.glob("*.toml"))
    if name not in known:
        raise InputError(f'no file "{name}" and no example of that name{nearest(name, known)}')
    return folder / f"{name}.toml"


def _config(config: str | None, settings: list[str], out: Path | None, *, resume: bool, replay: str | None) -> "Config":
    from hecate_core.config import load_config, recorded_config
    from hecate_core.evidence import recorded

    if replay is not None:
        if config is not None or resume or settings:
            raise InputError("--replay repeats a run as it was; leave CONFIG, --set and --resume out")
        return recorded(replay).config
    if resume:
        if out is None:
            raise InputError("--resume continues the run in --out DIR; name it")
        return recorded_config(_file_of(out), settings) if config is None else load_config(resolved(config), settings)
    return load_config(None if config is None else resolved(config), settings)


def resolved(config: str) -> Path:
    """The file that a command line means: a path, or the name of an example."""
    path = Path(config)
    return path if path.exists() or path.suffix or "/" in config else example(config)


def _file_of(run: Path) -> Path:
    from hecate_core.errors import CheckpointError

    if not (run / "config.json").is_file():
        raise CheckpointError(f"{run}: no run is here (no config.json); expected a folder made by hecate build")
    return run / "config.json"


def _lines(path: Path, final: dict[str, Any], replay: str | None, differs: str | None) -> Sequence[str]:
    lines = [f"run            {path}"]
    shown = {
        "bits_per_byte": ("held-out", "bits per byte"),
        "bits_per_byte_memory_off": ("memory off", "bits per byte"),
        "accuracy": ("held-out", "of the targets right"),
        "accuracy_memory_off": ("memory off", "of the targets right"),
        "chance": ("chance", "of the targets right"),
    }
    lines += [f"{label:<14} {final[key]:.3f} {unit}" for key, (label, unit) in shown.items() if key in final]
    if replay is not None:
        lines.append(f"replay         {differs}" if differs else f"replay         equal to {replay}, bit for bit")
    return lines
