"""The build loop: chunks from a stream, a Tape around each forward, one optimizer step per pulse.

A run is a pure function of its config: model, data order and every number in `metrics.jsonl` but the
seconds repeat bit for bit on one machine and thread count.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import get_total_norm

from hecate_core.backends import choices
from hecate_core.blueprint import compose, config_of, demand_rows, levels_in
from hecate_core.config import Config, config_digest, config_plain
from hecate_core.corpus import Corpus, open_corpus
from hecate_core.differentiation import Tape, cut
from hecate_core.divergence import Read, first_not_finite, write_bundle
from hecate_core.errors import DataError, DivergedError, InputError
from hecate_core.evaluation import bits_per_byte, refuse_small_vocab, task_scores
from hecate_core.generators import Generators
from hecate_core.levels import Conductor, Pulse
from hecate_core.model import LanguageModel, next_token_loss
from hecate_core.observing import (
    chains_of,
    learned,
    learning_bits_per_byte,
    refuse_clocks_inside,
    with_leaves,
)
from hecate_core.optimizers import LevelOptimizer
from hecate_core.records import State, positions_of, unflat
from hecate_core.registry import registry
from hecate_core.run_folder import RunFolder, demand_names, load_module
from hecate_core.schedule import rate
from hecate_core.shapes import Tensor
from hecate_core.sinks import sinks_of, told
from hecate_core.starting import start
from hecate_core.stopping import Stop, stopping
from hecate_core.stream import Chunk, ContextStream
from hecate_core.tasks import Task, TaskStream

Record = dict[str, Any]
Watcher = Callable[[Record], None]


class Build:
    """One run in memory: model, stream, optimizer, conductor and the carried memory; `step()` moves all of them."""

    def __init__(self, config: Config, corpus: Corpus | None = None) -> None:
        self.config = config
        self.corpus = open_corpus(config.data.path) if corpus is None else corpus
        self.generators = Generators(config.seed)
        run, data = config.run, config.data
        if data.task is None:
            _demand_text(config, self.corpus)
        demand_rows(config)
        self.device = _device(run.device)
        with registry().recording() as recording:
            self.model: LanguageModel = compose(config).to(self.device, getattr(torch, run.dtype))
            self._choose_optimizer()
            self.backends = choices(self.model, self.device, getattr(torch, run.autocast or run.dtype))
            self.task: Task | None = None if data.task is None else registry().create("task", data.task)
        self.plugins = [used.record() for used in recording.used()]
        self.stream: ContextStream | TaskStream
        if self.task is not None:
            refuse_small_vocab(self.task, config.model.vocab)
            self.stream = TaskStream(self.task, batch=data.batch, seed=config.seed)
        else:
            self.stream = ContextStream(
                self.corpus.train, batch=data.batch, chunk_tokens=data.length, documents=self.corpus.documents
            )
        length = data.length if self.task is None else self.task.tokens
        refuse_clocks_inside(self.model, length, documents=data.documents)
        self.state: State = self.model.init_state(data.batch)
        self.is_whole = True  # between two steps: only then is there something to save
        self.read: Read | None = None  # what the present step reads
        self.started: Record = {}  # whose weights the run begins with, where they are not those of its seed

    def start(self) -> None:
        """Take over the weights that the config names; the first context begins with them.

        Raises CheckpointError where they are not there or do not fit.
        """
        given, seed = self.config.start, str(self.config.seed)
        weights, mlps = (None if one is None else one.replace("{seed}", seed) for one in (given.weights, given.mlps))
        self.started = start(self.model, weights, mlps=mlps, stack=given.stack)
        if self.started:
            self.state = self.model.init_state(self.config.data.batch)

    def _choose_optimizer(self) -> None:
        levels = levels_in(self.config)
        self.conductor = Conductor(levels)
        self.optimizer: LevelOptimizer = registry().create(
            "optimizer",
            self.config.optimizer,
            named_parameters=self.model,
            levels=levels,
            clip=self.config.run.clip,
        )

    @property
    def steps_done(self) -> int:
        """Optimizer steps so far."""
        return self.conductor.step

    def step(self) -> Record:
        """One optimizer step over `accumulate` chunks.

        Raises DivergedError for a loss or a gradient that is not finite, with the place; no parameter has moved then.
        """
        self.is_whole = False
        pulse, losses = self.conductor.pulse(), []
        grads: dict[str, Tensor] = {}
        count = self.config.run.accumulate
        for _ in range(count):
            loss, fresh = self._forward_backward(self.stream.next_chunk())
            if not loss < float("inf"):
                assert self.read is not None
                place = first_not_finite(self.model, self.read, self._autocast())
                raise DivergedError(
                    f"step {pulse.step}: loss is {loss}; first not finite: {place}; "
                    "a smaller learning rate or write range may help"
                )
            losses.append(loss)
            grads = fresh if not grads else {name: grads[name] + fresh[name] for name in grads}
            if count > 1 and not get_total_norm(fresh.values(), float("inf")).isfinite():
                break  # the optimizer refuses such a gradient; this chunk is the one to keep
        if count > 1:
            grads = {name: grad / count for name, grad in grads.items()}
        mean = sum(losses) / count
        lr = self.optimizer.lr * rate(self.config.schedule, pulse.step, self.config.run.steps)
        self.optimizer.step(grads, pulse, lr=lr)
        self.conductor.advance()
        self.is_whole, self.read = True, None
        record = {"step": pulse.step, "loss": mean, "lr": lr, "update": list(pulse.update)}
        return record | self._health(pulse)

    def _health(self, pulse: Pulse) -> Record:
        """How the error buffers looked that this step emptied, by level; nothing where none did."""
        found = {str(level): ratio for level, ratio in self.optimizer.health().items() if pulse.update[level]}
        return {"health": found} if found else {}

    def _forward_backward(self, chunk: Chunk) -> tuple[float, dict[str, Tensor]]:
        """Loss in nats per token and its gradients; the carried memory moves on, cut from this graph."""
        ids, targets = chunk.input.to(self.device), chunk.target.to(self.device)
        parameters = self.optimizer.parameters
        if self._opens_context():
            self.state = self.model.init_state(ids.shape[0])
        opens = self.config.data.documents and bool(chunk.opens.any())
        starts = chunk.opens.to(self.device) if opens else None
        self.read = Read(ids, targets, self.state, starts)
        idle = self.model.unreached(self.state.position, ids.shape[1])
        tape = Tape() if self.config.run.wall else None
        state, leaves = with_leaves(self.state)
        with tape or nullcontext(), self._autocast():
            logits, after = self.model(ids, state, starts=starts)
            loss = next_token_loss(logits, targets)
        wanted = {**parameters, **leaves}
        if tape is not None:
            found = tape.grad(loss, wanted, unused=idle & set(parameters))
        else:
            grads = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
            found = dict(zip(wanted, grads, strict=True))
        whole = {name: torch.zeros_like(wanted[name]) if grad is None else grad for name, grad in found.items()}
        self.state = after.map(cut)
        if leaves:
            seen = {path: whole.pop(path) for path in leaves}
            self.state = learned(self.model, self.state, seen, int((targets >= 0).sum()), ids.shape[1])
        return float(loss.detach()), whole

    def _opens_context(self) -> bool:
        """Whether the next chunk begins with a fresh state: `data.context` tokens have gone by."""
        context = self.config.data.context
        if self.task is not None:
            return self.state.position > 0
        return context is not None and self.state.position >= context

    def _autocast(self) -> AbstractContextManager[object]:
        if self.config.run.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=getattr(torch, self.config.run.autocast))

    def evaluate(self) -> Record:
        """Held-out bits per byte (of a task: accuracy) with the memory on and, where there is one, off.

        Where levels learn as they read, also while they do.
        """
        if self.task is not None:
            return task_scores(self.model, self.task, self.config.seed, memory=self.config.model.memory is not None)
        held = self.corpus.heldout
        found = {"bits_per_byte": bits_per_byte(self.model, held)}
        if self.config.model.memory is not None:
            found["bits_per_byte_memory_off"] = bits_per_byte(self.model, held, remember=False)
        if any(chain.finest() for chain in chains_of(self.model).values()):
            found["bits_per_byte_learning"] = learning_bits_per_byte(self.model, held)
        return found

    def parts(self) -> tuple[dict[str, Mapping[str, Tensor]], Record]:
        """Everything the next step depends on: tensors by part, and plain values."""
        tensors, counters = self.optimizer.state_dict()
        parts: dict[str, Mapping[str, Tensor]] = {
            "model": self.model.state_dict(),
            "optimizer": tensors,
            "memory": self.state.flat(),
            "generators": self.generators.state(),
        }
        meta = {
            "config": config_plain(self.config),
            "config_digest": config_digest(self.config),
            "conductor": self.conductor.state_dict(),
            "optimizer": counters,
            "positions": positions_of(self.state),
            "plugins": self.plugins,
            "cursor": self.stream.cursor(self.conductor.step).as_dict(),
        }
        return parts, meta

    def restore(self, parts: Mapping[str, Mapping[str, Tensor]], meta: Mapping[str, Any]) -> None:
        """Continue exactly from `parts()`; raises CheckpointError where it does not fit this config."""
        load_module(self.model, parts["model"])
        self.optimizer.load_state_dict(parts["optimizer"], meta["optimizer"])
        self.conductor.load_state_dict(meta["conductor"])
        self.generators.restore(parts["generators"])
        self.stream.restore(meta["cursor"], pulse_id=self.conductor.step)
        fresh = self.model.init_state(self.config.data.batch)
        self.state = unflat(parts["memory"], meta["positions"]).to(self.device)
        demand_names("memory", fresh.flat(), self.state.flat())


def _demand_text(config: Config, corpus: Corpus) -> None:
    """InputError for a step that would read its row more than once."""
    row = len(corpus.train) // config.data.batch
    if config.data.length > row >= 2:  # a row without two tokens is told by the stream
        raise InputError(
            f"data.length = {config.data.length}: {len(corpus.train)} bytes of text for {config.data.batch} rows; "
            f"expected at most {row}"
        )


def _device(name: str) -> torch.device:
    """The device of that name, proven to be there by an empty tensor on it."""
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(" device")[0][:80]
        raise InputError(f'run.device = "{name}"; expected a device that is here, such as "cpu" ({reason})') from None
    if device.type == "meta":
        raise InputError('run.device = "meta"; expected a device that computes numbers, such as "cpu"')
    return device


def build(
    config: Config | Mapping[str, Any] | str | Path,
    out: RunFolder | Path | str | None = None,
    *,
    resume: bool = False,
    watch: Watcher | None = None,
) -> Build:
    """Run a config to its last step inside a run folder, from its newest checkpoint where `resume`.

    `config` is a Config, a table or a TOML file; `out` the folder (default: a new one under `runs/`). `watch` sees
    every metrics record. SIGINT and SIGTERM end the present step, save a checkpoint and raise KeyboardInterrupt
    (Terminated); a second one does so at once and saves nothing. Raises DivergedError for a loss that is not finite,
    with the place and a bundle that repeats it, InputError for a folder that holds a run already or that another
    process writes to, CheckpointError where a resume does not fit or the disk refuses.
    """
    made = Build(config_of(config))
    run = made.config.run
    if made.task is None and all(len(passage) < 2 for passage in made.corpus.heldout):
        raise DataError(f"data.path = {made.config.data.path}: too short to hold anything out; expected a longer text")
    if made.task is None and made.config.model.vocab < 256:
        raise InputError(f"model.vocab = {made.config.model.vocab}; expected at least 256, the bytes of a text")
    if not resume:  # what goes on has its weights in its own checkpoint
        made.start()
    folder = (
        out
        if isinstance(out, RunFolder)
        else RunFolder(out or new_run_folder(Path("runs"), made.config), keep=run.keep)
    )
    sinks = sinks_of(run.sinks)
    with folder.alone(resume=resume), stopping() as stop:
        if resume:
            made.restore(*folder.newest_checkpoint(made.config))
            folder.go_on(made)
        else:
            folder.begin(made)
        with _saving_on_interrupt(made, folder), told(sinks, folder.path) as tell_sinks:
            _loop(made, folder, _teller(folder, tell_sinks, watch), stop)
    return made


def _loop(made: Build, folder: RunFolder, tell: Watcher, stop: Stop) -> None:
    run = made.config.run
    length = made.config.data.length if made.task is None else made.task.tokens
    tokens = made.config.data.batch * length * run.accumulate
    while made.steps_done < run.steps:
        started = time.perf_counter()
        record = _step(made, folder)
        record |= {"tokens": tokens, "seconds": time.perf_counter() - started}
        done = made.steps_done
        try:
            if run.eval_interval and done % run.eval_interval == 0 and done < run.steps:
                with stop.at_once():
                    record |= _scores(made, folder)
        finally:
            tell(record)
        if run.checkpoint_interval and done % run.checkpoint_interval == 0 and done < run.steps:
            folder.save(made)
        stop.obey()
    with stop.at_once():
        final = _scores(made, folder)
    tell({"step": made.steps_done, "final": True, **final})
    folder.save(made)
    stop.obey()  # a signal that came late still ends whoever runs one build after the other


def _scores(made: Build, folder: RunFolder) -> Record:
    """Held-out scores; where one is not finite, what was built is saved before the error says so."""
    found = made.evaluate()
    for name, value in found.items():
        if isinstance(value, float) and not math.isfinite(value):
            folder.save(made)
            raise DivergedError(
                f"step {made.steps_done}: {name} is {value} on held-out contexts, whose memory outgrew every number; "
                f"a shorter chunk, a smaller write range or another strategy may help; the model is in {folder.path}"
            )
    return found


def _step(made: Build, folder: RunFolder) -> Record:
    """One step; where it diverges, the error says where its bundle is."""
    try:
        return made.step()
    except DivergedError as error:
        parts, meta = made.parts()
        place = folder.path / f"diverged-{made.steps_done}"
        assert made.read is not None  # only what a step reads diverges
        raise DivergedError(f"{error}; {write_bundle(place, parts, meta, made.read, str(error))}") from error


def _teller(folder: RunFolder, tell_sinks: Watcher, watch: Watcher | None) -> Watcher:
    def tell(record: Record) -> None:
        folder.append(record)
        tell_sinks(record)
        if watch is not None:
            watch(record)

    return tell


@contextmanager
def _saving_on_interrupt(made: Build, folder: RunFolder) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if made.is_whole:
            folder.save(made)
        raise


def new_run_folder(root: Path, config: Config) -> Path:
    """A folder name under `root` that is not taken: the rule and a number."""
    memory = config.model.memory
    return new_folder(root, memory.rule.name.replace(":", "-") if memory is not None else "attention")


def new_folder(root: Path, stem: str) -> Path:
    """`root/stem-N` with the first N from 1 that is not taken."""
    number = 1
    while (root / f"{stem}-{number}").exists():
        number += 1
    return root / f"{stem}-{number}"
