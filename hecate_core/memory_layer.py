"""`MemoryLayer`: a memory as one ordinary module for anybody's model."""

from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import Any, cast

from torch import nn

from hecate_core.composing import demand_letters, leveled_memory
from hecate_core.differentiation import autodiff
from hecate_core.input_checks import StateShape, check_activations, check_marks, refuse_transforms
from hecate_core.output_gate import OutputGate
from hecate_core.records import State
from hecate_core.shapes import Bool, Float, Tensor


class MemoryLayer(nn.Module):
    """Activations in, activations out, with an explicit state: `y, state = layer(x, state)`.

    `rule` is a name, a table or an instance; `levels` a list of periods or of level specs (each level owns its front,
    gates and memory). `chunk` changes only speed under an exact strategy. Nothing depends on train() or eval().
    Works with autocast, `.to(dtype)`, `no_grad`, deepcopy, activation checkpointing, `torch.compile` and, under
    `no_grad`, `torch.export` at a fixed length and position.

    Raises CompositionError for parts that do not fit and InputError for wrong or non-finite input, the state of another
    module, under torch.func and for torch.export with gradients.
    """

    def __init__(
        self,
        d_model: int,
        heads: int,
        *,
        rule: Any = "titans",
        levels: Sequence[Any] | None = None,
        strategy: Any = "chunkwise",
        chunk: int = 64,
        grain: int | None = None,
        conv: int = 4,
        conv_streams: Collection[str] = ("q", "k", "v"),
        aggregate: str = "invsqrt",
        backend: str = "auto",
        widths: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.d_model = d_model
        demand_letters(rule, widths)
        self.memory = leveled_memory(
            d_model,
            heads,
            rule=rule,
            strategy=strategy,
            chunk=chunk,
            levels=levels,
            grain=grain,
            conv=conv,
            conv_streams=conv_streams,
            aggregate=aggregate,
            backend=backend,
            widths=widths,
        )
        self._states = StateShape("MemoryLayer")
        self.gate = OutputGate(d_model)
        self.project = nn.Linear(d_model, d_model, bias=False)

    def init_state(self, batch: int) -> State:
        """A fresh memory for `batch` rows."""
        return self.memory.init_state(batch)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: State | None = None,
        write: Bool[Tensor, "B T"] | None = None,
        starts: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], State]:
        """Write and read every token; without `state` a fresh context. `write` False leaves the memory as it is.

        Where `starts` is True a new document begins in that row: nothing before it is seen. Exact, or refused with the
        reason (CompositionError) where rule and strategy cannot do so inside a call.
        """
        refuse_transforms("MemoryLayer", chain((x,), self.parameters()))
        check_activations("MemoryLayer", x, self.d_model, self.project.weight)
        for name, marks in (("write", write), ("starts", starts)):
            check_marks(f"MemoryLayer: {name}", marks, x.shape[0], x.shape[1], x.device)
        if state is None:
            state = self.init_state(x.shape[0])
        else:
            self._states.check(self, state, x.shape[0])
        y, after = self.memory.absorb(x, state, write, starts)
        return self._out(y, x), after

    @autodiff
    def _out(self, y: Tensor, x: Tensor) -> Tensor:
        return cast(Tensor, self.project(self.gate(y, x)))
