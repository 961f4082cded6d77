"""The one promise of a gate: its used value cannot leave the declared range."""

import torch

from hecate_core.gates import Gate
from hecate_core.testing.engine import Failed

RAW = (0.0, 1.0, -1.0, 30.0, -30.0, 110.0, -110.0, 1e4, -1e4, 1e30, -1e30, float("inf"), float("-inf"))
START = 1e-3  # a fresh head starts at init, up to the slope that it needs


def demand_bounded(name: str, gate: Gate) -> None:
    """Failed unless used values of raw ones up to infinity lie in range, in the gate's own dtype, and NaN stays NaN."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        used = gate.used(torch.tensor(RAW, dtype=dtype))
        low, high = torch.tensor(gate.low, dtype=dtype), torch.tensor(gate.high, dtype=dtype)
        outside = ~((used >= low) & (used <= high))
        if bool(outside.any()):
            at = int(outside.nonzero()[0])
            raise Failed(
                f"gate {name}: raw {RAW[at]:g} is used as {float(used[at]):.6g} in {dtype}; "
                f"declared [{gate.low:g}, {gate.high:g}]"
            )
        if not bool(torch.isnan(gate.used(torch.tensor(float("nan"), dtype=dtype)))):
            raise Failed(f"gate {name}: NaN is used as a number; expected NaN")
        if gate.used(torch.zeros(3, dtype=dtype)).dtype != dtype:
            raise Failed(f"gate {name}: used values change their dtype")
    start = float(gate.used(torch.tensor(gate.raw_init(), dtype=torch.float64)))
    if not abs(start - gate.init) <= START * max(1.0, gate.high - gate.low):
        raise Failed(f"gate {name}: starts at {start:.4g}; declared init {gate.init:g}")
