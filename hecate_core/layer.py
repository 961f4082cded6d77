"""A memory of one or several levels behind two verbs: `recall` reads, `absorb` writes and reads.

Each level owns its front, gates, parameters and state. A level hands its strategy the runs of tokens
that are due and reads the others; resting tokens neither decay the memory nor its momentum.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from hecate_core.aggregation import Aggregation
from hecate_core.anchoring import demand_resets_on_anchors, reads_its_own_writes
from hecate_core.differentiation import autodiff
from hecate_core.errors import CompositionError, InputError
from hecate_core.forms import Linearised
from hecate_core.frequency import FrequencyGate, Grain, judged
from hecate_core.front import Front
from hecate_core.gate_head import GateHead
from hecate_core.gates import narrowed_gates
from hecate_core.levels import LevelSpec, due_runs, reset_offsets
from hecate_core.parameters import RuleParams
from hecate_core.precision import full_precision, handed, widened
from hecate_core.protocols import MemoryRule, Strategy, Widths
from hecate_core.records import State, Tokens
from hecate_core.rehearsal import rehearse
from hecate_core.shapes import Bool, Float, Tensor
from hecate_core.strategies.documents import restarting, resting
from hecate_core.strategy_gates import gates_under


class LevelMemory(nn.Module):
    """One level: front, gate head, rule parameters and schedule. Its parameters carry its index for the optimizer."""

    def __init__(
        self,
        width: int,
        rule: MemoryRule,
        strategy: Strategy,
        widths: Widths,
        *,
        spec: LevelSpec,
        grain: int,
        front: Front,
        asking: Front | None = None,
        index: int = 0,
        writes: bool = True,
    ) -> None:
        super().__init__()
        self.hecate_level = index
        self._rule, self._strategy, self._spec, self._grain, self._writes = rule, strategy, spec, grain, writes
        self.front = front
        self.asking = asking
        ranges = narrowed_gates(gates_under(rule, strategy), spec.gates, f"levels[{index}]")
        self.gates = GateHead(width, ranges, widths)
        self.params = RuleParams(rule, widths)
        self._widths = widths
        self.head_size = max((size for axis, size in widths.items() if axis != "H"), default=0)
        if spec.frequency == "learned" and index == 0:
            raise CompositionError('levels[0].frequency = "learned": the fastest level always writes; expected "fixed"')
        demand_resets_on_anchors(strategy, rule, spec, grain, f"levels[{index}]")
        self.frequency = FrequencyGate(width, grain) if spec.frequency == "learned" else None

    @property
    def pairs(self) -> list[Any]:
        """The implementations of the ops that do the rule's work: of its form, of a step map, of a link."""
        needs: Any = self._strategy.needs
        form: object = None if needs is None else self._rule.offers(needs)
        formed = isinstance(form, Linearised) and not form.grows_by_op
        names = ("step_pair", "link_pair") if formed else ("pair", "step_pair", "link_pair")
        found = (getattr(self._strategy, name, None) for name in names)
        return [one for one in found if one is not None]

    def rehearse(self, dtype: torch.dtype) -> bool:
        """A call of a whole chunk on inputs of a dtype without their numbers; see `rehearsal.rehearse`.

        Raises CompositionError where an implementation that was asked for does not take tensors of such sizes.
        """
        length = max(self._grain, getattr(self._strategy, "chunk", 1), getattr(self._strategy, "longest", 1))
        try:
            return rehearse(self._rule, self._strategy, self.params.record(), self._widths, length, dtype)
        except InputError as error:
            raise CompositionError(
                f'rule "{self._rule.name}" under strategy "{self._strategy.name}": {error}'
            ) from error

    def init_state(self, batch: int) -> State:
        """Front tails and the rule's first memory for every row."""
        state = State(front=self.front.init_state(batch), rule=self._first(batch))
        if self.frequency is not None:
            state = state.replace(frequency=self.frequency.init_state(batch))
        return state if self.asking is None else state.replace(asking=self.asking.init_state(batch))

    def _first(self, batch: int) -> State:
        """The rule's first state, made of copies: what is carried on must not move when an outer step moves these."""
        return self._strategy.init_state(self._rule, self.params.record().map(torch.clone), batch)

    def unreached(self, position: int, count: int, segment: int = 0) -> set[str]:
        """Parameters that a call of `count` tokens from `position` may leave without a gradient, by name.

        What writes has nothing to say in a call that reads nothing of what it wrote itself: where the level rests, and
        where what is written is read late, by the strategy or at the next `segment` of the composition. The starting
        memory is reached only from a fresh context: a carried one is cut from it. A level that is never written may
        leave all of them.
        """
        if not self._writes:
            return {name for name, _ in self.named_parameters()}
        late: Any = getattr(self._strategy, "late", lambda name=None: 0)

        def heard(name: str | None = None) -> bool:
            clocks = (position, count, self._spec, self._grain)
            return reads_its_own_writes(*clocks, late=late(name), segment=segment)

        names = {
            f"params.{name}"
            for name, _ in self.params.named_parameters()
            if position or ((segment or late(name)) and not heard(name))
        }
        if not heard():
            names |= {f"gates.{name}" for name, _ in self.gates.named_parameters()}
            names |= {f"front.{name}" for name, _ in self.front.named_parameters()} if segment else set()
        if self.frequency is not None:  # a decision that nothing is due under, or an earlier call's, is not reached
            names |= {f"frequency.{name}" for name, _ in self.frequency.named_parameters()}
        return names

    def recall(self, x: Float[Tensor, "B T D"], state: State) -> tuple[Float[Tensor, "B T D"], State]:
        """Read only, through the asking front; the memory stays as it is."""
        assert self.asking is not None, "composed without a reading site"
        inputs, tail = self.asking(x, state.asking)
        return self._read(inputs, state.rule), state.replace(asking=tail)

    @autodiff
    def _read(self, inputs: Tokens, state: State) -> Float[Tensor, "B T D"]:
        with full_precision(inputs.q.device):
            y = self._rule.read(self.params.record(), state, widened(inputs.q))
        return y.transpose(1, 2).flatten(2).to(inputs.q.dtype)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: State,
        write: Bool[Tensor, "B T"] | None = None,
        starts: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], State]:
        """Write where due and allowed, read everywhere, begin anew at `starts`; heads are merged in the result."""
        if not self._writes:
            write = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        inputs, front = self.front(x, state.front, starts)
        gates = self.gates(x)
        grains: list[Grain] = []
        if self.frequency is not None:
            if starts is not None:
                raise CompositionError(
                    "document starts: a learned frequency decides by the grain before, over the start"
                )
            grains, decided = self.frequency(x, state.frequency)
            state = state.replace(frequency=decided)
        with full_precision(x.device):  # the memory has no digits to lose
            y, rule = self._spread(inputs, gates, state.rule, state.position, write, starts, grains)
        return y, state.replace(front=front, rule=rule, position=state.position + x.shape[1])

    @autodiff
    def _spread(
        self,
        inputs: Tokens,
        gates: Tokens,
        state: State,
        position: int,
        write: Tensor | None,
        starts: Tensor | None = None,
        grains: Sequence[Grain] = (),
    ) -> tuple[Float[Tensor, "B T D"], State]:
        """The strategy over due runs, plain reads over resting ones, in stream order."""
        rule, params = self._rule, self.params.record()
        tokens = handed(self._strategy, rule, inputs).replace(**gates)
        if starts is not None:
            rule, tokens = restarting(rule, tokens, starts, write)
            write = None
        count, period = inputs.q.shape[2], self._spec.write_period
        resets = reset_offsets(position, count, self._spec.reset_period, self._grain)
        reads: list[Tensor] = []
        begin = 0
        for end in (*resets, count):
            for start, stop, due in due_runs(position + begin, end - begin, period, self._grain):
                run = tokens.map(lambda one, a=begin + start, b=begin + stop: one[:, :, a:b])  # type: ignore[misc]
                if due and grains:
                    inside = [one for one in grains if begin + start < one.end and one.begin < begin + stop]
                    y, state = self._decided(run, state, write, inside, begin + start)
                elif due:
                    mask = None if write is None else write[:, begin + start : begin + stop]
                    y, state = self._strategy(rule, params, run, state, mask)
                elif starts is not None:  # a document may start while the level rests
                    y, after = self._strategy(rule, params, resting(run), state)
                    state = after.replace(position=state.position)
                else:
                    y = self._rule.read(params, state, widened(run.q))
                reads.append(y)
            if end in resets:
                state = self._first(inputs.q.shape[0])
            begin = end
        y = torch.cat(reads, 2) if reads else self._rule.read(params, state, tokens.q)
        return y.transpose(1, 2).flatten(2).to(inputs.q.dtype), state

    def _decided(
        self, run: Tokens, state: State, write: Tensor | None, grains: Sequence[Grain], first: int
    ) -> tuple[Float[Tensor, "B H T V"], State]:
        """A due run from token `first` of the call, written in a row's open grains and read in the others.

        A decision is judged by what writing changes in its own grain's reads; where rows rest, that is found by a
        second pass whose memory is dropped.
        """
        params, rule, reads = self.params.record(), self._rule, list[Tensor]()
        count = run.q.shape[2]
        for grain in grains:
            begin, end = max(grain.begin - first, 0), min(grain.end - first, count)
            piece = run.map(lambda one, a=begin, b=end: one[:, :, a:b])  # type: ignore[misc]
            allowed = None if write is None else write[:, first + begin : first + end]
            opened = grain.is_open.unsqueeze(1).expand(-1, end - begin)
            mask = opened if allowed is None else opened & allowed
            y, after = self._strategy(rule, params, piece, state, mask)
            if grain.decided:
                rested = rule.read(params, state, widened(piece.q))
                written, _ = self._strategy(rule, params, piece, state, allowed)
                y = judged(y, grain.wants, written - rested)
            reads.append(y)
            state = after
        return torch.cat(reads, 2), state


class LeveledMemory(nn.Module):
    """What a composition holds as its memory: all levels, their reads added up.

    `aggregate` is "sum", "invsqrt" or "softmax" (`Aggregation`).
    Source: architecture of continuum memory, [2512.24695] Sec. 7.1.
    """

    def __init__(self, levels: Sequence[LevelMemory], *, aggregate: str = "invsqrt") -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)
        self.aggregate = Aggregation(aggregate, len(levels))

    def init_state(self, batch: int) -> State:
        """Every level's first state."""
        return State.of({f"level{i}": self._level(i).init_state(batch) for i in range(len(self.levels))})

    def absorb(
        self,
        x: Float[Tensor, "B T D"],
        state: State,
        write: Bool[Tensor, "B T"] | None = None,
        starts: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], State]:
        """Write token by token, read after each write; where `write` is False nothing changes.

        Where `starts` is True a new document begins: nothing before it is seen, exactly, or CompositionError says why.
        """
        reads, states = [], {}
        for i in range(len(self.levels)):
            y, states[f"level{i}"] = self._level(i)(x, state[f"level{i}"], write, starts)
            reads.append(y)
        return self._sum(reads), State.of(states).replace(position=state.position + x.shape[1])

    def recall(self, x: Float[Tensor, "B T D"], state: State) -> tuple[Float[Tensor, "B T D"], State]:
        """Reads of every level added up; only the asking fronts' tails move on."""
        reads, states = [], {}
        for i in range(len(self.levels)):
            y, states[f"level{i}"] = self._level(i).recall(x, state[f"level{i}"])
            reads.append(y)
        return self._sum(reads), state.replace(**states)

    @autodiff
    def _sum(self, reads: list[Tensor]) -> Tensor:
        total: Tensor = self.aggregate(reads)
        return total

    def _level(self, index: int) -> LevelMemory:
        level = self.levels[index]
        assert isinstance(level, LevelMemory)
        return level
