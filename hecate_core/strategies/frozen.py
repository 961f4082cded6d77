"""The papers' parallel form: inner gradients at the memory that each chunk began with.

What remains is linear and is read without ever forming a memory per token:
A_t = b_t A_0 + g_t S_0 + sum over i <= t of reach_ti u_i x_i^T (specs/forms/linearised.md).
Chunks lie on an absolute grid and the anchor is state, so however a text is cut the result is the same.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from hecate_core.errors import CompositionError, InputError
from hecate_core.forms import Factors, Linearised, Pace, Refused
from hecate_core.ops.affine import NEUTRAL
from hecate_core.ops.decayed_linear import REFERENCE, DecayedLinearPair, Decays, decays
from hecate_core.ops.serving import serving
from hecate_core.protocols import MemoryRule
from hecate_core.records import Params, State, Tokens
from hecate_core.shapes import Bool, Float, Tensor
from hecate_core.strategies.anchored import Anchored, back_in_domain
from hecate_core.strategies.channels import GrownChannels
from hecate_core.strategies.erasing import settled
from hecate_core.strategies.grown import Grown, Linked, Stored, memories, momenta, stacked
from hecate_core.strategies.mapped import GrownMapped
from hecate_core.weights import PerToken, Shared, Weights

Growth = Grown | GrownChannels | GrownMapped


class Frozen:
    """Gradients frozen at the start of each chunk; exact for chunk 1, second order in the rate beyond.

    `chunk` (tokens, >= 1) is part of the model: another chunk is another function. `detach` stops the outer
    gradient at the anchor, a different, first-order algorithm. `link` says where a non-linear link or projection
    acts: "token" at every read (the meaning), "chunk" once, at each chunk's first token, with weights that run
    linearly through the rest of it (cheaper, another approximation). `read` says what is read: "token" the memory
    after the token's write (the meaning), "anchor" the one that the chunk began with, as a coarse memory beside finer
    ones is read. `pair` implements the op, `step_pair` that of a rule's step map, `link_pair` that of its
    link. Source: [2501.00663] Eq. 16-18;
    [2504.13173] Eq. 28, for `link="chunk"` Eq. 30-32; for `read="anchor"` [2511.07343] Eq. 5, 7, [2512.24695] Eq. 90.
    """

    name = "frozen"
    needs = Linearised
    exact = False
    inherits = True
    op = "decayed_linear"

    def __init__(
        self,
        *,
        chunk: int = 16,
        detach: bool = False,
        link: Literal["token", "chunk"] = "token",
        read: Literal["token", "anchor"] = "token",
        pair: DecayedLinearPair = REFERENCE,
        step_pair: Any = None,
        link_pair: Any = None,
    ) -> None:
        if chunk < 1:
            raise InputError(f"frozen: chunk = {chunk}; expected an integer >= 1")
        if link not in ("token", "chunk"):
            raise InputError(f'frozen: link = "{link}"; expected "token" (every read) or "chunk" (once per chunk)')
        if read not in ("token", "anchor"):
            raise InputError(f'frozen: read = "{read}"; expected "token" (after its write) or "anchor" (chunk start)')
        if (link, read) == ("chunk", "anchor"):
            raise InputError('frozen: link = "chunk" with read = "anchor"; expected link = "token": one read, one link')
        self.chunk, self.detach, self.link, self.read, self.pair = chunk, detach, link, read, pair
        self.step_pair, self.link_pair = step_pair, link_pair
        self.inherits = (link, read) == ("token", "token")
        self.anchors = self.summed = chunk
        self.borders = () if self.inherits else (chunk,)

    def late(self, param: str | None = None) -> int:
        """With `read = "anchor"`, the chunk: what is written is read when the next one begins."""
        return self.chunk if self.read == "anchor" else 0

    def init_state(self, rule: MemoryRule, params: Params, batch: int) -> State:
        """The rule's first state and the anchor of the first chunk."""
        form = self._form(rule)
        state = rule.init_state(params, batch)
        memory = state.at(form.memory)
        state = state.replace(anchor=memory)
        if form.project is not None:
            device = next(iter(memory.flat().values())).device
            state = state.replace(unprojected=torch.zeros(batch, dtype=torch.bool, device=device))
        if self._links_once(form):
            state = state.replace(seen=memory if form.link is None else memory.map(form.link))
        return state

    def around(self, rule: MemoryRule) -> MemoryRule:
        """The rule; with this strategy's reads where they differ from the rule's own."""
        form = self._form(rule)
        plain = (self.link, self.read) == ("token", "token") and form.project is None
        return rule if plain or isinstance(rule, Anchored) else Anchored(rule, self.recall)

    def recall(
        self, rule: MemoryRule, params: Params, state: State, q: Float[Tensor, "B H T K"]
    ) -> Float[Tensor, "B H T V"]:
        """What the next token would read if it wrote nothing."""
        form, begins = self._form(rule), state.position % self.chunk == 0
        if self.read == "anchor" and not begins:
            return _answered(form, params, Shared(_linked(form, state.anchor)), q)
        if self._links_once(form) and not begins:
            return _answered(form, params, Shared(state.seen), q)
        stored: Mapping[str, Tensor] = state.at(form.memory)
        if form.project is not None:
            stored = back_in_domain(stored, form.project, state.unprojected)
        return _answered(form, params, Shared(_linked(form, stored)), q)

    def __call__(
        self,
        rule: MemoryRule,
        params: Params,
        tokens: Tokens,
        state: State,
        write: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B H T V"], State]:
        """See `Strategy`. Raises CompositionError where the rule has no linearised form."""
        form = self._form(rule)
        most = _longest(self.pair, tokens.q, form.group)
        sizes = _grid(state.position % self.chunk, tokens.q.shape[2], self.chunk, self._links_once(form), most)
        if not sizes:
            return self.recall(rule, params, state, tokens.q), state
        if form.gather is not None:
            tokens, state = form.gather(params, state, tokens, write)
        walk = _Walk(form, params, state, self)
        spread = _all_decays(form, tokens, write, sizes)
        masks = [None] * len(sizes) if write is None else write.split(sizes, 1)
        pieces = zip(_split(tokens, sizes), masks, spread, strict=True)
        reads = [walk.piece(piece, mask, one) for piece, mask, one in pieces]
        return (reads[0] if len(reads) == 1 else torch.cat(reads, 2)), walk.end()

    def _form(self, rule: MemoryRule) -> Linearised:
        form = rule.offers(Linearised)
        if isinstance(form, Refused):
            raise CompositionError(f'rule "{rule.name}" has no linearised form ({form.reason}); use "sequential"')
        return form

    def _links_once(self, form: Linearised) -> bool:
        return self.link == "chunk" and (form.link is not None or form.project is not None)


class _Walk:
    """One call's way over the chunks: what is stored, where gradients are taken, what reads see."""

    def __init__(self, form: Linearised, params: Params, state: State, how: Frozen) -> None:
        self._form, self._params, self._state, self._how = form, params, state, how
        self._position = state.position
        momentum = None if form.momentum is None else state.at(form.momentum)
        self._stored: Stored = stacked(state.at(form.memory), momentum)
        self._anchor: State = state.anchor
        self._seen: Mapping[str, Tensor] | None = state.get("seen")
        self._unprojected: Tensor | None = state.get("unprojected")  # [B]: rows written since they last were

    def piece(self, tokens: Tokens, due: Tensor | None, spread: Decays | None) -> Float[Tensor, "B H T V"]:
        """Tokens of one chunk: gradients at the anchor, then reads after each write."""
        phase = self._position % self._how.chunk
        if phase == 0 or (phase == 1 and self._seen is not None):
            self._anchor = self._renewed()
        anchor = self._anchor.map(torch.Tensor.detach) if self._how.detach else self._anchor
        factors = self._form.factors(self._params, anchor, tokens)
        if due is not None:
            factors = _masked(factors, _of_groups(due, self._form.group))
        self._position += tokens.q.shape[2]
        written = self._written(due, tokens.q)
        if self._seen is not None:
            return self._linked_once(tokens.q, factors, spread, phase)
        grown = self._grow(self._stored, factors, spread)
        seen, q = self._weights(grown, factors, written), tokens.q
        if self._form.asks is not None:
            q = self._form.asks(self._params, seen if self._how.read == "anchor" else _before(grown), q)
        y = self._form.read(self._params, seen, q)
        self._advance(grown)
        return y

    def _written(self, due: Bool[Tensor, "B T"] | None, q: Tensor) -> Bool[Tensor, "B T"] | None:
        """Whether a row has been written since its last projection, after each token; None without a projection."""
        if self._unprojected is None:
            return None
        due = torch.ones(q.shape[0], q.shape[2], dtype=torch.bool, device=q.device) if due is None else due
        written = self._unprojected.unsqueeze(1) | (due.cumsum(1) > 0)
        self._unprojected = written[:, -1]
        return written

    def _weights(self, grown: Growth, factors: Factors, written: Tensor | None) -> Weights:
        """What reads see: every token's memory, or the anchor's."""
        form = self._form
        if self._how.read == "anchor":
            return Shared(_linked(form, self._anchor))
        if form.project is not None:
            assert written is not None
            every = {name: grown.every(name) for name in factors.updates}
            return PerToken(_linked(form, back_in_domain(every, form.project, written)))
        if form.link is None:
            return grown
        by: Any = form.link
        if isinstance(grown, Grown) and hasattr(by, "op"):
            return Linked(grown, by if self._how.link_pair is None else by.on(self._how.link_pair))
        return PerToken(_linked(form, {name: grown.every(name) for name in factors.updates}))

    def _renewed(self) -> State:
        """The anchor of the chunk that begins: every stored weight, or those whose turn it is."""
        fresh, serves = memories(self._stored), self._form.renewed
        if serves is None:
            return State.of(fresh)
        number = self._position // self._how.chunk
        due = {name: number % serves.get(name, 1) == 0 for name in fresh}
        return State.of({name: one if due[name] else self._anchor[name] for name, one in fresh.items()})

    def end(self) -> State:
        """The state after the last token, laid out as a saved one: strides decide how products are summed.

        The anchor of a first chunk may be a parameter: what is carried on must not move with it.
        """
        plain = torch.Tensor.contiguous
        memory = State.of(memories(self._stored)).map(plain)
        anchor = self._anchor.map(lambda one: one.clone(memory_format=torch.contiguous_format))
        state = self._state.put(self._form.memory, memory).replace(anchor=anchor)
        if self._form.momentum is not None:
            state = state.put(self._form.momentum, State.of(momenta(self._stored)).map(plain))
        if self._seen is not None:
            state = state.replace(seen=State.of(self._seen))
        if self._unprojected is not None:
            state = state.replace(unprojected=self._unprojected)
        return state.replace(position=self._position)

    def _linked_once(self, q: Tensor, factors: Factors, spread: Decays | None, phase: int) -> Tensor:
        """The first token goes through the link, the others read weights that run on linearly from there."""
        before = self._momenta()
        assert self._seen is not None
        self._advance(self._grow(self._stored, factors, spread))
        if phase == 0:
            self._seen = _linked(self._form, self._projected())
            return self._form.read(self._params, Shared(self._seen), q)
        grown = self._grow(stacked(self._seen, before), factors, spread)
        y = self._form.read(self._params, grown, q)
        self._seen = memories(grown.last())
        return y

    def _grow(self, stored: Stored, factors: Factors, spread: Decays | None) -> Growth:
        form = self._form
        if form.step_map is not None:
            step: Any = form.step_map
            by = self._how.step_pair
            return GrownMapped(stored, factors, step if by is None else step.on(by), form.group)
        if form.axis != "scalar":
            return GrownChannels(stored, factors, form.axis)
        if spread is None:
            spread = decays(factors.keep, factors.momentum, factors.inject)
        updates = settled(factors, stored, spread)
        if form.group > 1:  # a token's read is that of its last change
            last = slice(form.group - 1, None, form.group)
            spread = spread._replace(reach=spread.reach[:, :, last], reads=spread.reads[:, :, last])
        return Grown(stored, updates, spread, self._how.pair)

    def _momenta(self) -> Mapping[str, Tensor] | None:
        return None if self._form.momentum is None else momenta(self._stored)

    def _advance(self, grown: Growth) -> None:
        """What survives the piece; at the end of a chunk back in its domain."""
        self._stored = grown.last()
        if self._unprojected is not None and self._position % self._how.chunk == 0:
            self._stored = stacked(self._projected(), self._momenta())
            self._unprojected = torch.zeros_like(self._unprojected)

    def _projected(self) -> Mapping[str, Tensor]:
        """Every stored weight in its domain."""
        stored, project = memories(self._stored), self._form.project
        if project is None or self._unprojected is None:
            return stored
        return back_in_domain(stored, project, self._unprojected)


def _answered(form: Linearised, params: Params, weights: Weights, q: Tensor) -> Float[Tensor, "B H T V"]:
    """What a query finds that no token of its own has written for."""
    return form.read(params, weights, q if form.asks is None else form.asks(params, weights, q))


def _before(grown: Growth) -> Weights:
    """The weights that each token meets."""
    if not isinstance(grown, Grown):
        raise CompositionError(
            "frozen: a rule that makes its queries wants one decay per token and no map of its steps"
        )
    return grown.before()


def _linked(form: Linearised, stored: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The weights of what is stored."""
    return stored if form.link is None else {name: form.link(matrix) for name, matrix in stored.items()}


def _longest(pair: DecayedLinearPair, q: Float[Tensor, "B H T K"], group: int) -> float:
    """The most tokens of a chunk that one call of the op takes: a pair may say `longest`, in updates."""
    updates = getattr(serving(pair, q), "longest", None)
    return math.inf if updates is None else max(1, updates // group)


def _grid(phase: int, count: int, chunk: int, first_alone: bool, most: float) -> list[int]:
    """Sizes of the pieces that `count` tokens fall into, `phase` tokens into a chunk, none above `most`."""
    sizes = []
    while count > 0:
        size = 1 if first_alone and phase == 0 else int(min(chunk - phase, count, most))
        sizes.append(size)
        count, phase = count - size, (phase + size) % chunk
    return sizes


def _split(tokens: Tokens, sizes: list[int]) -> list[Tokens]:
    """One split per tensor: slices would each cost a gradient as long as the text."""
    columns = {name: one.split(sizes, 2) for name, one in tokens.items()}
    return [Tokens.of({name: parts[i] for name, parts in columns.items()}) for i in range(len(sizes))]


def _all_decays(form: Linearised, tokens: Tokens, write: Tensor | None, sizes: list[int]) -> Sequence[Decays | None]:
    """The decays of every piece, those of equal size at once; None where they depend on the anchor."""
    if form.pace is None or form.axis != "scalar" or form.step_map is not None:
        return [None] * len(sizes)
    pace = form.pace(tokens)
    if write is not None:
        pace = _rested(pace, _of_groups(write, form.group))
    sizes = [form.group * one for one in sizes]
    gates = [None if one is None else one.split(sizes, 2) for one in pace]
    found: dict[int, Decays] = {}
    for size in set(sizes):
        places = [i for i, one in enumerate(sizes) if one == size]
        keep, momentum, inject = (None if g is None else torch.stack([g[i] for i in places], 2) for g in gates)
        assert keep is not None
        each = zip(*(field.unbind(2) for field in decays(keep, momentum, inject)), strict=True)
        found.update((i, Decays._make(one)) for i, one in zip(places, each, strict=True))
    return [found[i] for i in range(len(sizes))]


def _of_groups(write: Bool[Tensor, "B T"], group: int) -> Bool[Tensor, "B 1 T"]:
    """The mask for every change: all of a token's changes rest with it."""
    return write.repeat_interleave(group, 1).unsqueeze(1)


def _rested(pace: Pace, due: Bool[Tensor, "B 1 T"]) -> Pace:
    """Neutral wherever `due` is False: nothing decays, no momentum enters."""
    inject = pace.inject
    if inject is None and pace.momentum is not None:
        inject = torch.ones_like(pace.momentum)
    wide = due if pace.keep.dim() == 3 else due.unsqueeze(-1)
    return Pace(
        keep=torch.where(wide, pace.keep, NEUTRAL["keep"]),
        momentum=None if pace.momentum is None else torch.where(due, pace.momentum, NEUTRAL["momentum"]),
        inject=None if inject is None else torch.where(due, inject, NEUTRAL["inject"]),
    )


def _masked(factors: Factors, due: Bool[Tensor, "B 1 T"]) -> Factors:
    """Neutral wherever `due` is False, and nothing written there."""
    pace = _rested(Pace(factors.keep, factors.momentum, factors.inject), due)
    updates = {name: (torch.where(due.unsqueeze(-1), u, 0.0), x) for name, (u, x) in factors.updates.items()}
    erase = factors.erase and {name: torch.where(due.unsqueeze(-1), e, 0.0) for name, e in factors.erase.items()}
    return Factors(pace.keep, updates, pace.momentum, pace.inject, erase)
