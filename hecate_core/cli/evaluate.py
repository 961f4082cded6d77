"""`hecate eval`: score a run's model on held-out text and on tasks, its memory on and off."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from hecate_core.cli.output import Output
from hecate_core.errors import InputError

if TYPE_CHECKING:
    from hecate_core.config import Config
    from hecate_core.model import LanguageModel

Run = Annotated[Path, Argument(metavar="RUN", help="A folder made by hecate build.")]
Tasks = Annotated[str | None, Option("--task", metavar="A,B", help="lm (held-out text) or registered tasks.")]
Switches = Annotated[str, Option("--memory", metavar="on,off", help="Score with the memory written, masked, or both.")]
Seed = Annotated[int, Option("--seed", help="Of the held-out contexts.")]


def evaluate(output: Output, run: Run, tasks: Tasks = None, memory: Switches = "on,off", seed: Seed = 0) -> None:
    """Score the model of a run on tasks, with its memory on and off."""
    import torch

    from hecate_core.run_folder import load_manifest, load_run

    switches = memory.split(",")
    if not switches or set(switches) - {"on", "off"}:
        raise InputError(f'--memory "{memory}"; expected on, off or on,off')
    model, config = load_run(run)
    torch.set_num_threads(config.run.threads)
    own = "lm" if config.data.task is None else config.data.task.name
    names = [own] if tasks is None else tasks.split(",")
    rows: list[dict[str, Any]] = []
    for name in names:
        for switch in switches:
            output.note(f"{name}, memory {switch}")
            rows.append({"task": name, "memory": switch, **_scores(model, config, name, seed, remember=switch == "on")})
    recipe = {"run": str(run), "seed": seed, "manifest": load_manifest(run)}
    lines = [f"{row['task']:<10} memory {row['memory']:<4} " + _shown(row) for row in rows]
    output.result("hecate.scores/1", {"scores": rows, "recipes": [recipe]}, lines)


def _scores(model: "LanguageModel", config: "Config", name: str, seed: int, *, remember: bool) -> dict[str, Any]:
    from hecate_core.corpus import open_corpus
    from hecate_core.evaluation import accuracy, bits_per_byte, lift
    from hecate_core.registry import registry

    if name == "lm":
        held = open_corpus(config.data.path).heldout
        return {"bits_per_byte": bits_per_byte(model, held, remember=remember)}
    same = config.data.task is not None and config.data.task.name == name
    task = registry().create("task", config.data.task if same else name)
    return {
        "accuracy": accuracy(model, task, seed, remember=remember),
        "lift_bits": lift(model, task, seed, remember=remember),
        "chance": task.chance,
        "built_on": same,
    }


def _shown(row: dict[str, Any]) -> str:
    if "bits_per_byte" in row:
        return f"{row['bits_per_byte']:.4f} bits per byte"
    built = "" if row["built_on"] else ", not built on it"
    return f"accuracy {row['accuracy']:.4f} (chance {row['chance']:.4f}), lift {row['lift_bits']:.3f} bits{built}"
