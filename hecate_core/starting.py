"""Where weights come from that are not drawn from the seed: a run that was built before.

Nothing but weights is taken: optimizer, schedule, cursor and memory begin anew. Docs: docs/config.md; two stages of TNT
in specs/strategies/tnt.md, chains of given MLPs in specs/cms.md, Eq. 9.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import frozen

from hecate_core.channel import SwiGLU
from hecate_core.checkpoint import MANIFEST, load_part, read_meta
from hecate_core.cms import CMS
from hecate_core.errors import CheckpointError, CompositionError
from hecate_core.model import LanguageModel
from hecate_core.observing import chains_of
from hecate_core.run_folder import checkpoint_of
from hecate_core.shapes import Tensor

Record = dict[str, Any]
Rows = Sequence[Sequence[int]]


@frozen
class Source:
    """The weights of one checkpoint; `setting` is how messages name it, `sha256` its identity wherever it lies."""

    setting: str
    tensors: Mapping[str, Tensor]
    sha256: str
    step: int | None

    def record(self) -> Record:
        """What a manifest says of it."""
        return {"sha256": self.sha256, "step": self.step}


def start(
    model: LanguageModel,
    weights: Path | str | None = None,
    *,
    mlps: Path | str | None = None,
    stack: Rows | None = None,
) -> Record:
    """Give a model the weights of a run, or its chains the MLPs of one; both in place. Returns what they were.

    `weights` and `mlps` are run folders (their last checkpoint) or checkpoints of one. With `weights` every weight is
    taken over: names and shapes must be the model's own, numbers are converted to its precision. With `mlps` level l
    of the i-th block that has a chain begins as the MLP of block `stack[i][l]` there, by default of its own number;
    beside `weights` the MLPs that chains replace are left out on both sides. The record holds the SHA-256 of the
    weights' file, wherever that lies. Raises CheckpointError where nothing is there or does not fit.
    """
    record: Record = {}
    chains = {} if mlps is None else chains_of(model)
    stacked = None if mlps is None else _stacked(_source("mlps", mlps), chains, stack)
    if weights is not None:
        source = _source("weights", weights)
        _take_over(model, source, [name.replace("block", "blocks.") + ".channel." for name in chains])
        record["weights"] = source.record()
    for chain, given in zip(chains.values(), [] if stacked is None else stacked[0], strict=True):
        chain.stack(given)
    if stacked is not None:
        record["mlps"] = stacked[1]
    return record


def _source(key: str, path: Path | str) -> Source:
    """The model part of a run's last checkpoint, or of the checkpoint itself."""
    setting, path = f'start.{key} = "{path}"', Path(path)
    try:
        is_checkpoint = (path / MANIFEST).is_file() and not (path / "config.json").exists()
        folder = path if is_checkpoint else checkpoint_of(path)
        tensors, sha256 = load_part(folder, "model")
        step = read_meta(folder).get("conductor", {}).get("step")
    except CheckpointError as error:
        raise CheckpointError(f"{setting}: {error}") from None
    return Source(setting, tensors, sha256, step)


def _take_over(model: LanguageModel, source: Source, chains: Sequence[str]) -> None:
    """Every weight outside `chains`, prefixes of names; CheckpointError unless names and shapes are the same."""
    own = model.state_dict()
    wanted = {name: one for name, one in own.items() if not name.startswith(tuple(chains))}
    given = {name: one for name, one in source.tensors.items() if not name.startswith(tuple(chains))}
    odd = sorted(set(wanted) ^ set(given))
    if odd:
        which = "it has no" if odd[0] in wanted else "the model has no"
        raise CheckpointError(f"{source.setting}: {which} {odd[0]}; expected a run of a model with the same weights")
    for name, one in wanted.items():
        if given[name].shape != one.shape:
            raise CheckpointError(
                f"{source.setting}: {name} is {list(given[name].shape)}; expected {list(one.shape)}, as in the model"
            )
    model.load_state_dict({**own, **given})


def _stacked(source: Source, chains: Mapping[str, CMS], rows: Rows | None) -> tuple[list[list[SwiGLU]], Record]:
    """Per chain the MLPs that its levels begin as, and what a manifest says of them."""
    if not chains:
        raise CompositionError(f'{source.setting}: the model has no chain; expected channel = "cms"')
    if rows is None:
        rows = [[int(name.removeprefix("block"))] * len(chain.specs) for name, chain in chains.items()]
    if len(rows) != len(chains):
        raise CompositionError(
            f"start.stack: {len(rows)} rows for {len(chains)} blocks with a chain; expected one row for each"
        )
    made = []
    for (name, chain), row in zip(chains.items(), rows, strict=True):
        if len(row) != len(chain.specs):
            raise CompositionError(
                f"start.stack: {list(row)} for the {len(chain.specs)} levels of {name}; expected a block for each level"
            )
        made.append([_mlp(source, chain, block) for block in row])
    return made, {**source.record(), "stack": [list(row) for row in rows]}


def _mlp(source: Source, chain: CMS, block: int) -> SwiGLU:
    """The MLP of a block as a module; CheckpointError where the run has none there, or one of other widths."""
    found: dict[str, Tensor] = {}
    for name, own in chain.levels[0].state_dict().items():
        one = source.tensors.get(f"blocks.{block}.channel.{name}")
        if one is None:
            raise CheckpointError(f'{source.setting}: block {block} has no MLP; expected a run with channel = "swiglu"')
        if one.shape != own.shape:
            raise CheckpointError(
                f"{source.setting}: block {block} has {name} {list(one.shape)}; "
                f"expected {list(own.shape)}, as in a level"
            )
        found[name] = one
    width, hidden = found["down.weight"].shape
    with torch.device("meta"):  # nothing is drawn
        made = SwiGLU(width, hidden / width)
    made.load_state_dict(found, assign=True)
    return made
