"""The dry run of one config: compose tiny, forward, backward, an outer step, save, load, one resumed step."""

import tempfile
from pathlib import Path

import torch

from hecate_core import checkpoint
from hecate_core.building import Build
from hecate_core.checking.cells import tiny_corpus
from hecate_core.config import Config
from hecate_core.shapes import Tensor
from hecate_core.testing.engine import Failed, Suite
from hecate_core.testing.samples import same_bits


class DryRun:
    """A tiny config, its build and what became of it so far; the checks run in order, each on the one before."""

    member = None

    def __init__(self, config: Config) -> None:
        self.config = config
        self.corpus = tiny_corpus(config.model.vocab)
        self.build = self.fresh()
        self.loss = float("nan")
        self.parts: dict[str, dict[str, Tensor]] = {}
        self.meta: dict[str, object] = {}

    def fresh(self) -> Build:
        """The same build again."""
        return Build(self.config, self.corpus)


DRY_RUN: Suite[DryRun] = Suite("model")
STILL = "no parameter moves"


@DRY_RUN.check
def one_outer_step(run: DryRun) -> None:
    """Forward, backward and an optimizer step: the loss is finite and every parameter stays so."""
    before = {name: one.detach().clone() for name, one in run.build.model.named_parameters()}
    loss = run.build.step()["loss"]
    if not loss == loss or loss in (float("inf"), -float("inf")):
        raise Failed(f"the loss is {loss}")
    still = []
    for name, one in run.build.model.named_parameters():
        if not bool(torch.isfinite(one).all()):
            raise Failed(f"parameter {name} is not finite after one step")
        if one.numel() and torch.equal(one, before[name]):
            still.append(name)
    if len(still) == len(before):
        raise Failed(STILL)


@DRY_RUN.check
def saved_and_loaded(run: DryRun) -> None:
    """A checkpoint gives back every part, bit for bit."""
    parts, meta = run.build.parts()
    with tempfile.TemporaryDirectory() as folder:
        path = checkpoint.save(Path(folder) / "step-1", parts, meta)
        run.parts, run.meta = checkpoint.load(path)
    for part, tensors in parts.items():
        if set(run.parts.get(part, {})) != set(tensors):
            raise Failed(f"part {part} comes back with other names")
        for name, one in tensors.items():
            if not same_bits(run.parts[part][name], one.cpu()):
                raise Failed(f"{part}: {name} comes back changed")


@DRY_RUN.check
def resumed_step_equals_the_unbroken_one(run: DryRun) -> None:
    """A fresh build that continues from the checkpoint takes the same next step, bit for bit."""
    if not run.parts:
        raise Failed("nothing was saved")
    resumed = run.fresh()
    resumed.restore(run.parts, run.meta)
    expected, found = run.build.step()["loss"], resumed.step()["loss"]
    if expected != found:
        raise Failed(f"the resumed loss is {found!r}; unbroken it is {expected!r}")
    one, two = run.build.parts()[0], resumed.parts()[0]
    for part, tensors in one.items():
        for name, tensor in tensors.items():
            if not same_bits(tensor, two[part][name]):
                raise Failed(f"after the resumed step {part}: {name} differs from the unbroken run")
