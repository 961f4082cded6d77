"""Synthetic tasks: what a model is asked, how it is scored, and a stream that never repeats.

A task is a component of kind "task": a generator of contexts with some positions that count. Every context is
read alone, from a fresh memory.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch

from hecate_core.errors import CheckpointError, InputError
from hecate_core.shapes import Int, Tensor
from hecate_core.stream import Chunk

HELD_OUT = "held-out"  # the name under which contexts for scoring are drawn; building never draws from it


class Sample(NamedTuple):
    """Contexts `[B, T]` and what should be predicted at each token, -1 where nothing counts."""

    ids: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]


class Task(Protocol):
    """A distribution of contexts. `vocab` ids are used, `chance` is the accuracy of knowing nothing.

    `tokens` is the length of a context. `spec` is the path of its specification.
    """

    name: str
    spec: str
    vocab: int
    tokens: int
    chance: float

    def sample(self, count: int, random: torch.Generator) -> Sample:
        """`count` fresh contexts; the same generator state gives the same contexts."""
        ...


def drawn(task: Task, count: int, seed: int, *path: object) -> Sample:
    """The contexts that belong to a seed and a path of names or numbers, whatever was drawn before."""
    key = "/".join(map(str, (seed, task.name, *path)))
    digest = hashlib.sha256(key.encode()).digest()
    random = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    sample = task.sample(count, random)
    wanted = (count, task.tokens)
    if sample.ids.shape != wanted or sample.targets.shape != wanted:
        raise InputError(
            f'task "{task.name}": made ids {list(sample.ids.shape)} and targets {list(sample.targets.shape)}; '
            f"expected {list(wanted)}"
        )
    if int(sample.ids.max()) >= task.vocab or int(sample.targets.max()) >= task.vocab:
        raise InputError(f'task "{task.name}": made an id that its vocab of {task.vocab} does not have')
    return sample


class TaskStream:
    """A ContextStream's place in a build on a task: chunk n is a function of seed and n alone."""

    def __init__(self, task: Task, *, batch: int, seed: int) -> None:
        self.task, self.batch, self._seed = task, batch, seed
        self.chunk_id = 0

    @property
    def position(self) -> int:
        """Tokens per row so far."""
        return self.chunk_id * self.task.tokens

    def next_chunk(self) -> Chunk:
        """`batch` contexts that were never drawn before."""
        ids, targets = drawn(self.task, self.batch, self._seed, self.chunk_id)
        opens = torch.zeros_like(ids, dtype=torch.bool)
        opens[:, 0] = True
        chunk = Chunk(ids, targets, opens, self.position, self.chunk_id, None)
        self.chunk_id += 1
        return chunk

    def cursor(self, pulse_id: int = 0) -> "TaskCursor":
        """Where the stream stands."""
        return TaskCursor(self.task.name, self._seed, self.chunk_id, pulse_id)

    def restore(self, cursor: Mapping[str, Any], pulse_id: int | None = None) -> None:
        """Continue from a cursor; CheckpointError for one of another task, seed or step."""
        here = self.cursor().as_dict()
        if set(cursor) != set(here) or any(cursor[key] != here[key] for key in ("task", "seed")):
            raise CheckpointError(
                f'cursor: {dict(cursor)!r}; expected one of task "{self.task.name}", seed {self._seed}'
            )
        if pulse_id is not None and cursor["pulse_id"] != pulse_id:
            raise CheckpointError(f"cursor: taken at step {cursor['pulse_id']}; expected step {pulse_id}")
        if isinstance(cursor["chunk_id"], bool) or not isinstance(cursor["chunk_id"], int) or cursor["chunk_id"] < 0:
            raise CheckpointError(f"cursor.chunk_id = {cursor['chunk_id']!r}; expected an integer >= 0")
        self.chunk_id = cursor["chunk_id"]


class TaskCursor(NamedTuple):
    """A TaskStream's place as plain values."""

    task: str
    seed: int
    chunk_id: int
    pulse_id: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-able values."""
        return self._asdict()
