"""Scores on what the model has never seen, every context read alone from a fresh memory: bits per byte, accuracy."""

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F

from hecate_core.errors import DataError, InputError
from hecate_core.model import LanguageModel
from hecate_core.shapes import Bool, Int, Tensor
from hecate_core.tasks import HELD_OUT, Task, drawn

TEXT_IDS = 256  # a text is read byte by byte
TOKENS = 8192  # padded tokens at once; passages of neighbouring lengths go together, so that little is padded


@torch.inference_mode()
def bits_per_byte(model: LanguageModel, passages: Sequence[bytes], *, remember: bool = True) -> float:
    """Mean bits for every byte but the first of each passage; `remember=False` masks all writes.

    Padding stands after a passage's last byte, where nothing that is counted can see it. Raises DataError when no
    passage has two bytes.
    """
    if model.vocab < TEXT_IDS:
        raise InputError(
            f"evaluation: text needs {TEXT_IDS} ids, the model has {model.vocab}; score it on its own task"
        )
    device = model.head.weight.device
    ordered = sorted((passage for passage in passages if len(passage) > 1), key=len)
    if not ordered:
        raise DataError("evaluation: no passage of two bytes or more; expected held-out text")
    total, counted = 0.0, 0
    for rows in _batches(ordered):
        longest = len(rows[-1])
        ids = torch.zeros(len(rows), longest, dtype=torch.int64)
        for row, passage in enumerate(rows):
            ids[row, : len(passage)] = torch.frombuffer(bytearray(passage), dtype=torch.uint8)
        ids = ids.to(device)
        lengths = torch.tensor([len(passage) for passage in rows], device=device)
        write = torch.full(ids[:, :-1].shape, remember, device=device)
        logits, _ = model(ids[:, :-1], model.init_state(len(rows)), write if not remember else None)
        counts = torch.arange(longest - 1, device=device) < (lengths - 1).unsqueeze(1)
        nats = F.cross_entropy(logits.float().transpose(1, 2), ids[:, 1:], reduction="none")
        total += float(nats[counts].double().sum())
        counted += int(counts.sum())
    return total / counted / math.log(2.0)


def _batches(ordered: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Runs of passages, shortest first, whose padded size stays below TOKENS (a longer one goes alone)."""
    rows: list[bytes] = []
    for passage in ordered:
        if rows and (len(rows) + 1) * len(passage) > TOKENS:
            yield rows
            rows = []
        rows.append(passage)
    yield rows


CONTEXTS = 256  # contexts that score a task
BATCH = 16  # of them at once


@torch.inference_mode()
def accuracy(model: LanguageModel, task: Task, seed: int, *, remember: bool = True) -> float:
    """Share of the counted targets that the likeliest id gets right, over held-out contexts of a seed."""
    refuse_small_vocab(task, model.vocab)
    device = model.head.weight.device
    right = counted = 0
    for part in range(0, CONTEXTS, BATCH):
        ids, targets = (one.to(device) for one in drawn(task, BATCH, seed, HELD_OUT, part))
        write = None if remember else torch.zeros(ids.shape, dtype=torch.bool, device=device)
        logits, _ = model(ids, model.init_state(BATCH), write)
        asked = targets >= 0
        right += int((logits.argmax(-1)[asked] == targets[asked]).sum())
        counted += int(asked.sum())
    return right / _some(counted, task)


@torch.inference_mode()
def lift(model: LanguageModel, task: Task, seed: int, *, remember: bool = True) -> float:
    """How many bits per counted target the right answer is worth against that of the row before.

    The i-th answer of a row is weighed against the i-th of the other row (from the first again where it has fewer).
    Positive where the model uses what stood in the context, 0 where it only knows the form of an answer.
    """
    refuse_small_vocab(task, model.vocab)
    device, gained, counted = model.head.weight.device, 0.0, 0
    for part in range(0, CONTEXTS, BATCH):
        ids, targets = (one.to(device) for one in drawn(task, BATCH, seed, HELD_OUT, part))
        write = None if remember else torch.zeros(ids.shape, dtype=torch.bool, device=device)
        logits, _ = model(ids, model.init_state(BATCH), write)
        asked = targets >= 0
        bits = (-logits.double().log_softmax(-1) / math.log(2.0))[asked]
        own, other = targets[asked], _answers_of_others(targets, asked)
        gained += float((bits.gather(1, other[:, None]) - bits.gather(1, own[:, None])).sum())
        counted += len(own)
    return gained / _some(counted, task)


def _answers_of_others(targets: Int[Tensor, "B T"], asked: Bool[Tensor, "B T"]) -> Tensor:
    """For every counted target `[count]` one of the row before that has any."""
    answers = [row[counts] for row, counts in zip(targets, asked, strict=True) if bool(counts.any())]
    before = [answers[-1], *answers[:-1]] if answers else []
    places = [
        torch.arange(len(own), device=own.device) % len(other) for own, other in zip(answers, before, strict=True)
    ]
    return torch.cat([targets.new_empty(0), *(other[at] for other, at in zip(before, places, strict=True))])


def _some(counted: int, task: Task) -> int:
    if not counted:
        raise InputError(f'task "{task.name}": no counted target in {CONTEXTS} contexts; expected some that are >= 0')
    return counted


def task_scores(model: LanguageModel, task: Task, seed: int, *, memory: bool) -> dict[str, float]:
    """Accuracy and chance, and with a memory the accuracy with all writes masked."""
    scores = {"accuracy": accuracy(model, task, seed), "chance": task.chance}
    if memory:
        scores["accuracy_memory_off"] = accuracy(model, task, seed, remember=False)
    return scores


def refuse_small_vocab(task: Task, vocab: int) -> None:
    """InputError where a task uses ids that the model does not have."""
    if task.vocab > vocab:
        raise InputError(f'task "{task.name}" uses {task.vocab} ids; expected model.vocab >= {task.vocab}, not {vocab}')
