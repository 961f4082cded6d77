"""The algorithm of delta gradient descent: a step that also erases along the present input.

Spec: specs/knobs/dgd.md.
"""

from collections.abc import Callable, Mapping

from hecate_core.errors import CompositionError
from hecate_core.gates import WRITE, Gate
from hecate_core.protocols import Rates
from hecate_core.records import Tokens
from hecate_core.shapes import Tensor


class DeltaGradientDescent:
    """W_t = W_{t-1} (keep I - erase x x^T) - write grad(W_{t-1}), x the input of the weight.

    `erase="write"` erases at the step size itself, "gate" at a gate of its own. Source: [2512.24695] Eq. 57, 88.
    """

    at = "raw"
    has_momentum = False
    erases = True
    step_map: Callable[[Tensor], Tensor] | None = None

    def __init__(self, *, erase: str = "write") -> None:
        if erase not in ("write", "gate"):
            raise CompositionError(f'dgd: erase = "{erase}"; expected "write" (the step size) or "gate" (its own)')
        self.erase = erase
        self.gates: Mapping[str, Gate] = {"write": WRITE, **({"erase": WRITE} if erase == "gate" else {})}

    def rates(self, tokens: Tokens) -> Rates:
        """Step size and erase rate, the same or two gates."""
        return Rates(tokens.write, erase=tokens.write if self.erase == "write" else tokens.erase)
