"""`MemoryLayer`: a memory as one ordinary module for anybody's model."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from torch import nn

from hecate_core.composing import demand_letters, leveled_memory
from hecate_core.differentiation import autodiff
from hecate_core.errors import InputError
from hecate_core.input_checks import refuse_non_finite
from hecate_core.output_gate import OutputGate
from hecate_core.records import State
from hecate_core.shapes import Bool, Float, Tensor


class MemoryLayer(nn.Module):
    """Activations in, activations out, with an explicit state: `y, state = layer(x, state)`.

    `rule` is a name, a table or an instance; `levels` a list of periods or of level specs (each level owns its front,
    gates and memory). `chunk` changes only speed under an exact strategy. Nothing depends on train() or eval().
    Works with autocast, `.to(dtype)`, `no_grad`, deepcopy and `torch.export` at a fixed length and position.

    Raises CompositionError for parts that do not fit and InputError for wrong or non-finite input.
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
        if x.dim() != 3 or x.shape[2] != self.d_model:
            raise InputError(f"MemoryLayer: x is {list(x.shape)}; expected [B, T, {self.d_model}]")
        refuse_non_finite("MemoryLayer", x=x)
        y, after = self.memory.absorb(x, self.init_state(x.shape[0]) if state is None else state, write, starts)
        return self._out(y, x), after

    @autodiff
    def _out(self, y: Tensor, x: Tensor) -> Tensor:
        return cast(Tensor, self.project(self.gate(y, x)))
