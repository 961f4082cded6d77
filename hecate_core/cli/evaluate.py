"""`hecate eval`: score a run's model on held-out text and on tasks, its memory on and off."""

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from attrs import frozen
from typer import Argument, Option

from hecate_core.cli.output import Output
from hecate_core.errors import InputError

if TYPE_CHECKING:
    from hecate_core.config import Config
    from hecate_core.model import LanguageModel
    from hecate_core.tasks import Task

Run = Annotated[Path, Argument(metavar="RUN", help="A folder made by hecate build.")]
Tasks = Annotated[str | None, Option("--task", metavar="A,B", help="lm (held-out text) or registered tasks.")]
Switches = Annotated[str, Option("--memory", metavar="on,off", help="Score with the memory written, masked, or both.")]
Seed = Annotated[int, Option("--seed", help="Of the held-out contexts.")]


def evaluate(output: Output, run: Run, tasks: Tasks = None, memory: Switches = "on,off", seed: Seed = 0) -> None:
    """Score the model of a run on tasks, with its memory on and off."""
    import torch

    from hecate_core.config import config_plain
    from hecate_core.evaluation import CONTEXTS
    from hecate_core.run_folder import checkpoint_of, load_manifest, load_run, surroundings

    switches = _each("--memory", memory)
    if set(switches) - {"on", "off"}:
        raise InputError(f'--memory "{memory}"; expected on, off or on,off')
    manifest = load_manifest(run)
    checkpoint = checkpoint_of(run).name  # before the scores: a run that goes on meanwhile has a newer one by then
    model, config = load_run(run)
    torch.set_num_threads(config.run.threads)
    own = "lm" if config.data.task is None else config.data.task.name
    # Everything that can be refused is, before the first score: a long one is never thrown away.
    names = [own] if tasks is None else _each("--task", tasks)
    made = {name: _task(config, name, model.vocab) for name in names if name != "lm"}
    scorers = [_scorer(model, config, manifest, made.get(name), seed) for name in names]
    rows: list[dict[str, Any]] = []
    for name, scores in zip(names, scorers, strict=True):
        for switch in switches:
            output.note(f"{name}, memory {switch}")
            rows.append({"task": name, "memory": switch, **scores(switch == "on")})
    recipe = {
        "run": str(run),
        "checkpoint": checkpoint,
        "seed": seed,
        "contexts": CONTEXTS,
        "tasks": {name: one.record() for name, one in made.items()},
        "scored": surroundings(),
        "config": config_plain(config),
        "manifest": manifest,
    }
    lines = [f"{row['task']:<10} memory {row['memory']:<4} " + _shown(row) for row in rows]
    output.result("hecate.scores/1", {"scores": rows, "recipes": [recipe]}, lines)


def _each(option: str, text: str) -> list[str]:
    """The names of a list with commas, each once."""
    names = text.split(",")
    if "" in names or len(set(names)) < len(names):
        raise InputError(f'{option} "{text}"; expected names with commas between them, each once')
    return names


@frozen
class _Asked:
    """A task as it is scored: with its options, and whether the model was built on it."""

    task: "Task"
    options: dict[str, Any]
    built_on: bool

    def record(self) -> dict[str, Any]:
        """What was asked, for a recipe."""
        return {**self.options, "vocab": self.task.vocab, "tokens": self.task.tokens, "chance": self.task.chance}


def _task(config: "Config", name: str, vocab: int) -> _Asked:
    """The run's own task as it was built on, or another one, over as many ids as the model has where it lets choose."""
    from hecate_core.evaluation import refuse_small_vocab
    from hecate_core.registry import registry

    if config.data.task is not None and config.data.task.name == name:
        return _Asked(registry().create("task", config.data.task), dict(config.data.task.options), built_on=True)
    asked = _Asked(registry().create("task", name), {}, built_on=False)
    if asked.task.vocab > vocab and "vocab" in signature(registry().component("task", name)).parameters:
        asked = _Asked(registry().create("task", name, vocab=vocab), {"vocab": vocab}, built_on=False)
    refuse_small_vocab(asked.task, vocab)
    return asked


def _scorer(
    model: "LanguageModel", config: "Config", manifest: Mapping[str, Any], asked: _Asked | None, seed: int
) -> Callable[[bool], dict[str, Any]]:
    """What scores the model on a task or on its text, memory written or masked; raises where it cannot be scored."""
    from hecate_core.evaluation import accuracy, bits_per_byte, lift

    if asked is None:
        held = _heldout(config, manifest, model.vocab)
        return lambda remember: {"bits_per_byte": bits_per_byte(model, held, remember=remember)}
    task = asked.task
    return lambda remember: {
        "accuracy": accuracy(model, task, seed, remember=remember),
        "lift_bits": lift(model, task, seed, remember=remember),
        "chance": task.chance,
        "vocab": task.vocab,
        "built_on": asked.built_on,
    }


def _heldout(config: "Config", manifest: Mapping[str, Any], vocab: int) -> Sequence[bytes]:
    """The held-out passages of a run's text, which must be the one it was built on: of another, some were seen."""
    from hecate_core.corpus import open_corpus
    from hecate_core.errors import DataError
    from hecate_core.evaluation import TEXT_IDS

    if vocab < TEXT_IDS:
        raise InputError(f"--task lm: text needs {TEXT_IDS} ids, the model has {vocab}; score it on its own task")
    corpus, data = open_corpus(config.data.path), manifest.get("data")
    was = data.get("sha256") if isinstance(data, Mapping) else None
    if config.data.task is None and corpus.sha256 != was:
        raise DataError(
            f"{config.data.path or corpus.name}: is another text (sha256 {corpus.sha256[:12]}) than the run was built "
            f"on ({str(was)[:12]}); expected that one"
        )
    if all(len(passage) < 2 for passage in corpus.heldout):
        raise DataError(f"{config.data.path}: too short to hold anything out; expected a longer text")
    return corpus.heldout


def _shown(row: dict[str, Any]) -> str:
    if "bits_per_byte" in row:
        return f"{row['bits_per_byte']:.4f} bits per byte"
    built = "" if row["built_on"] else f", {row['vocab']} ids, not built on it"
    return f"accuracy {row['accuracy']:.4f} (chance {row['chance']:.4f}), lift {row['lift_bits']:.3f} bits{built}"
