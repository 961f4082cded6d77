"""The half of a block that looks at other tokens: a composition with the memory and attention it asked for."""

import inspect
from collections.abc import Mapping
from typing import Any, cast

from attrs import frozen
from torch import nn

from hecate_core.attention import SlidingWindowAttention
from hecate_core.composing import leveled_memory
from hecate_core.config.reference import Reference
from hecate_core.differentiation import autodiff
from hecate_core.errors import CompositionError
from hecate_core.layer import LeveledMemory, LevelMemory
from hecate_core.protocols import Attention, Composition, Memory
from hecate_core.records import State
from hecate_core.registry import registry
from hecate_core.shapes import Bool, Float, Tensor


class Mixer(nn.Module):
    """A composition, the memory and attention that it wants, and the output projection.

    `composition` is a name, a table or a class that takes `width`. Raises CompositionError where it wants a memory and
    `memory` is None.
    """

    def __init__(
        self, width: int, heads: int, *, composition: Any, attention: dict[str, Any], memory: dict[str, Any] | None
    ) -> None:
        super().__init__()
        join = _made(composition, width, attention)
        if join.remembers and memory is None:
            name = getattr(composition, "name", composition)
            raise CompositionError(f'composition "{name}" wants a memory; give model.memory a rule')
        self.join = join
        self.memory = leveled_memory(width, heads, recalls=join.recalls, **(memory or {})) if join.remembers else None
        self.attention = SlidingWindowAttention(width, heads, **_rows(join, attention)) if join.attends else None
        self.project = nn.Linear(width, width, bias=False)

    def init_state(self, batch: int) -> State:
        """The first state of whatever the composition wants, and of the composition itself."""
        state = State()
        if self.memory is not None:
            state = state.replace(memory=self.memory.init_state(batch))
        if self.attention is not None:
            state = state.replace(attention=self.attention.init_state(batch))
        begun: State = self.join.init_state(state) if hasattr(self.join, "init_state") else state
        return begun

    def unreached(self, position: int, count: int) -> set[str]:
        """Parameters that a call of `count` tokens from `position` may leave without a gradient, by name."""
        segment: int = getattr(self.join, "late", 0)
        return {
            f"{path}.{name}"
            for path, module in self.named_modules()
            if isinstance(module, LevelMemory)
            for name in module.unreached(position, count, segment)
        }

    @autodiff
    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: State,
        write: Bool[Tensor, "B T"] | None = None,
        starts: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], State]:
        """One causal pass over the call's tokens; a new document begins where `starts` is True.

        Raises CompositionError for `starts` where the composition or its memory cannot begin anew inside a call.
        """
        join, memory, attention = cast(Composition, self.join), cast(Memory, self.memory), cast(Any, self.attention)
        if starts is not None:
            if hasattr(self.join, "init_state"):
                raise CompositionError("document starts: the composition carries a state that they would not reach")
            memory = _DocumentMemory(cast(LeveledMemory, self.memory), starts)
            attention = _DocumentAttention(attention, starts)
        y, state = join(x, memory, cast(Attention, attention), state, write)
        return self.project(y), state.replace(position=state.position + x.shape[1])


@frozen
class _DocumentMemory:
    """A memory that begins anew at marked tokens of this call; a composition sees the same two verbs."""

    memory: LeveledMemory
    starts: Tensor

    def absorb(self, x: Tensor, state: State, write: Tensor | None = None) -> tuple[Tensor, State]:
        return self.memory.absorb(x, state, write, _whole(self.starts, x))

    def recall(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        raise CompositionError("document starts: the composition recalls a memory from before the start")


@frozen
class _DocumentAttention:
    """Attention that sees nothing from before a marked token of this call."""

    attention: SlidingWindowAttention
    starts: Tensor

    def __call__(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        y, after = self.attention(x, state, _whole(self.starts, x))
        return y, after


def _whole(starts: Tensor, x: Tensor) -> Tensor:
    if starts.shape != x.shape[:2]:
        raise CompositionError(
            f"document starts: {list(starts.shape)} marks for {list(x.shape[:2])} rows; "
            "expected a composition that shows its parts the call's own tokens"
        )
    return starts


def _made(composition: Any, width: int, attention: Mapping[str, Any]) -> Any:
    """The composition, given its width and, if it takes one, the attention window in tokens."""
    factory = (
        composition if callable(composition) else registry().component("composition", Reference.of(composition).name)
    )
    given = {"width": width}
    if "window" in inspect.signature(factory).parameters and "window" in attention:
        given["window"] = attention["window"]
    return factory(**given) if callable(composition) else registry().create("composition", composition, **given)


def _rows(join: Any, attention: Mapping[str, Any]) -> dict[str, Any]:
    """Attention's options with the window in rows: a composition may show it several rows for every token."""
    rows = getattr(join, "rows", 1)
    return (
        {**attention, "window": rows * attention["window"]} if rows > 1 and "window" in attention else dict(attention)
    )
