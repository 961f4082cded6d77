"""TNT: a coarse global memory, and local ones that restart every shard.

Spec: specs/strategies/tnt.md, Eq. 1 to 5. Limit: one local memory whose shard covers everything, no global one and no
projection, is `frozen`.
"""

import math
from typing import Any, Literal

import torch

from hecate_core.api import (
    Bool,
    CompositionError,
    DecayedLinearPair,
    Float,
    Frozen,
    InputError,
    Linearised,
    MemoryRule,
    Params,
    Refused,
    State,
    Tensor,
    Tokens,
)
from hecate_tnt.memories import Memories, params_of
from hecate_tnt.projection import projected


class TNT:
    """Reads of one global memory and of every local one, added up.

    `global_chunk` (0: no global memory): its gradients are taken, and it is read, at the memory its chunk began with;
    `reduce` "mean" divides its write rates by the chunk.
    `local_chunks`: one local memory each, gradients at the chunk's start, read after each write. `shards`: tokens after
    which each starts anew, one for all or one each, a multiple of its chunk. `project`: queries of local memories pass
    the keys of their shard. `stage` 2 takes `fine_chunks` in place of `local_chunks`. `detach`, `link` and
    the pairs as in `frozen`.
    Source: [2511.07343] Eq. 3-7, 13-15, App. C.
    """

    name = "tnt"
    needs = Linearised
    exact = False
    op = "decayed_linear"

    def __init__(
        self,
        *,
        global_chunk: int = 64,
        reduce: Literal["sum", "mean"] = "sum",
        local_chunks: tuple[int, ...] = (8,),
        shards: tuple[int, ...] = (64,),
        project: bool = True,
        stage: int = 1,
        fine_chunks: tuple[int, ...] = (1,),
        detach: bool = False,
        link: Literal["token", "chunk"] = "token",
        pair: DecayedLinearPair | None = None,
        step_pair: Any = None,
        link_pair: Any = None,
    ) -> None:
        if reduce not in ("sum", "mean"):
            raise InputError(f'tnt: reduce = "{reduce}"; expected "sum" (as printed) or "mean" (of a global chunk)')
        self.global_chunk, self.reduce, self.project = global_chunk, reduce, project
        chosen = _chosen(tuple(local_chunks), tuple(fine_chunks), stage)
        self.local_chunks, self.shards = chosen, _shards(tuple(shards), chosen)
        if global_chunk < 0 or not (global_chunk or chosen):
            raise InputError(
                f"tnt: global_chunk = {global_chunk}; expected an integer >= 1, or 0 (none) with a local memory"
            )
        more: dict[str, Any] = {"step_pair": step_pair, "link_pair": link_pair} | (
            {} if pair is None else {"pair": pair}
        )
        self._global = Frozen(chunk=max(global_chunk, 1), detach=detach, read="anchor", **more)
        self.longest = max(global_chunk, *chosen, 1)  # of its chunks, in tokens
        self.pair, self.step_pair, self.link_pair = self._global.pair, step_pair, link_pair
        self._locals = [Frozen(chunk=one, detach=detach, link=link, **more) for one in chosen]
        parts = [*([self._global] if global_chunk else []), *self._locals]
        self.detach, self.anchors = detach, math.lcm(*(one.anchors for one in parts))
        self.restarts = {f"local{index}": shard for index, shard in enumerate(self.shards)}
        self.borders = (*self.shards, *(border for one in parts for border in one.borders))

    def late(self, param: str | None = None) -> int:
        """The global chunk: for the global memory's parameters, and for all where it is the only one."""
        coarse = not self._locals if param is None else not param.startswith("local")
        return self.global_chunk if coarse else 0

    @property
    def summed(self) -> int:
        """The most steps that are added up along errors of one memory."""
        summed = self.global_chunk if self.reduce == "sum" else 1
        return max(summed, *self.local_chunks, 1)

    def around(self, rule: MemoryRule) -> Memories:
        """The rule with the parameters and reads of all memories; CompositionError for keys that cannot project."""
        if isinstance(rule, Memories):
            return rule
        form = rule.offers(Linearised)
        if isinstance(form, Refused):
            raise CompositionError(f'rule "{rule.name}" has no linearised form ({form.reason}); use "sequential"')
        if self.global_chunk and self.reduce == "mean" and "write" not in rule.gates:
            raise CompositionError(f'rule "{rule.name}" under strategy "tnt": no write gate; reduce = "mean" wants one')
        if self.project and self.local_chunks:
            if rule.inputs.get("k") != rule.inputs["q"]:
                raise CompositionError(
                    f'rule "{rule.name}" under strategy "tnt": no keys as wide as queries; set project = false'
                )
            _key_axis(rule)
        return Memories(rule, self)

    def init_state(self, rule: MemoryRule, params: Params, batch: int) -> State:
        """The global memory as `frozen` has it, and `local0` ... with their projections."""
        plain = self.around(rule).rule
        state = self._global.init_state(plain, params, batch) if self.global_chunk else State()
        for index in range(len(self._locals)):
            state = state.replace(**{f"local{index}": self._fresh(index, plain, params, batch)})
        return state

    def __call__(
        self,
        rule: MemoryRule,
        params: Params,
        tokens: Tokens,
        state: State,
        write: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B H T V"], State]:
        """See `Strategy`. A local memory restarts at its shard's border whether tokens there are written or not."""
        plain = self.around(rule).rule
        if "document_starts" in tokens:
            raise CompositionError("tnt: a document starts inside a call; local memories start anew at shards only")
        if not tokens.q.shape[2]:
            return self.read(rule, params, state, tokens.q), state
        reads, after = [], state
        if self.global_chunk:
            y, after = self._global(plain, params, self._reduced(tokens), state, write)
            reads.append(y)
        for index in range(len(self._locals)):
            mine = params_of(plain, params, index)
            y, local = self._local(index, plain, mine, tokens, state, write)
            after = after.replace(**{f"local{index}": local.replace(position=0)})
            reads.append(y)
        return _added(reads), after.replace(position=state.position + tokens.q.shape[2])

    def read(
        self, rule: MemoryRule, params: Params, state: State, q: Float[Tensor, "B H T K"]
    ) -> Float[Tensor, "B H T V"]:
        """What the next token would read if it wrote nothing."""
        plain = self.around(rule).rule
        reads = []
        if self.global_chunk:
            reads.append(self._global.recall(plain, params, state, q))
        for index, shard in enumerate(self.shards):
            mine, phase = params_of(plain, params, index), state.position % shard
            local = state[f"local{index}"].replace(position=phase)
            if phase == 0:
                local = self._fresh(index, plain, params, q.shape[0])
            asked = q @ local.projection.mT if self.project else q
            reads.append(self._locals[index].recall(plain, mine, local, asked))
        return _added(reads)

    def _fresh(self, index: int, plain: MemoryRule, params: Params, batch: int) -> State:
        """A local memory at a shard's start: no key has come by."""
        mine = params_of(plain, params, index)
        local = self._locals[index].init_state(plain, mine, batch)
        if not self.project:
            return local
        name, axis = _key_axis(plain)
        heads, width = mine[name].shape[0], mine[name].shape[axis]
        return local.replace(projection=mine[name].new_zeros(batch, heads, width, width))

    def _reduced(self, tokens: Tokens) -> Tokens:
        """The tokens as the global memory writes them."""
        return tokens if self.reduce == "sum" else tokens.replace(write=tokens.write / self.global_chunk)

    def _local(
        self, index: int, plain: MemoryRule, mine: Params, tokens: Tokens, state: State, write: Tensor | None
    ) -> tuple[Float[Tensor, "B H T V"], State]:
        """The shard under way, whole shards side by side, and the start of the next one."""
        shard, count = self.shards[index], tokens.q.shape[2]
        batch, phase = tokens.q.shape[0], state.position % shard
        local, reads, at = state[f"local{index}"].replace(position=phase), [], 0
        while at < count:
            if phase == 0:
                local = self._fresh(index, plain, mine, batch)
            whole = (count - at) // shard if phase == 0 else 0
            size = whole * shard if whole else min(shard - phase, count - at)
            piece = tokens.map(lambda one, a=at, n=size: one[:, :, a : a + n])  # type: ignore[misc]
            mask = None if write is None else write[:, at : at + size]
            if whole > 1:
                y, local = self._side_by_side(index, plain, mine, piece, mask, whole)
            else:
                y, local = self._piece(index, plain, mine, piece, local, mask)
            reads.append(y)
            at, phase = at + size, (phase + size) % shard
        return (reads[0] if len(reads) == 1 else torch.cat(reads, 2)), local

    def _side_by_side(
        self, index: int, plain: MemoryRule, mine: Params, tokens: Tokens, write: Tensor | None, shards: int
    ) -> tuple[Float[Tensor, "B H T V"], State]:
        """Whole shards as rows of one batch: nothing passes from one to the next."""
        batch = tokens.q.shape[0]

        def rows(one: Tensor) -> Tensor:
            made: Tensor = one.unflatten(2, (shards, -1)).movedim(2, 1).flatten(0, 1)
            return made

        mask = None if write is None else write.unflatten(1, (shards, -1)).flatten(0, 1)
        first = self._fresh(index, plain, mine, batch * shards)
        y, after = self._piece(index, plain, mine, tokens.map(rows), first, mask)
        last = after.map(lambda one: one.unflatten(0, (batch, shards))[:, -1])
        return y.unflatten(0, (batch, shards)).movedim(1, 2).flatten(2, 3), last

    def _piece(
        self, index: int, plain: MemoryRule, mine: Params, tokens: Tokens, local: State, write: Tensor | None
    ) -> tuple[Float[Tensor, "B H T V"], State]:
        """Tokens of one shard."""
        if not self.project:
            return self._locals[index](plain, mine, tokens, local, write)
        q, projection = projected(tokens.q, tokens.k, local.projection, write)
        y, after = self._locals[index](plain, mine, tokens.replace(q=q), local, write)
        return y, after.replace(projection=projection)


def _added(reads: list[Tensor]) -> Tensor:
    """The sum of all reads."""
    total = reads[0]
    for one in reads[1:]:
        total = total + one
    return total


def _key_axis(rule: MemoryRule) -> tuple[str, int]:
    """A parameter that has the width of keys, heads first, and on which axis; CompositionError where none has."""
    letter = rule.inputs["k"]
    for name, one in rule.params.items():
        axes = one.axes.split()
        if axes[0] == "H" and letter in axes:
            return name, axes.index(letter)
    raise CompositionError(
        f'rule "{rule.name}" under strategy "tnt": no parameter has the width of its keys; set project = false'
    )


def _chosen(coarse: tuple[int, ...], fine: tuple[int, ...], stage: int) -> tuple[int, ...]:
    """The chunks of the stage; InputError for chunks that are none, or not finer in the second stage."""
    if stage not in (1, 2):
        raise InputError(f"tnt: stage = {stage}; expected 1 (coarse local chunks) or 2 (fine ones)")
    for name, chunks in (("local_chunks", coarse), ("fine_chunks", fine)):
        if any(one < 1 for one in chunks):
            raise InputError(f"tnt: {name} = {list(chunks)}; expected integers >= 1")
    if stage == 1:
        return coarse
    if len(fine) != len(coarse) or any(one > two for one, two in zip(fine, coarse, strict=False)):
        raise InputError(f"tnt: fine_chunks = {list(fine)}; expected one for each of {list(coarse)}, none larger")
    return fine


def _shards(given: tuple[int, ...], chunks: tuple[int, ...]) -> tuple[int, ...]:
    """Every local memory's shard; InputError unless there is one for all or one each, a multiple of its chunk."""
    shards = given * len(chunks) if len(given) == 1 else given
    if len(shards) != len(chunks):
        raise InputError(f"tnt: shards = {list(given)}; expected one for all {len(chunks)} local memories, or one each")
    for shard, chunk in zip(shards, chunks, strict=True):
        if shard < 1 or shard % chunk:
            raise InputError(f"tnt: shards = {list(given)}; expected multiples of the local chunks {list(chunks)}")
    return shards
