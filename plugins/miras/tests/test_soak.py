"""10,000 random tokens at every corner of the declared gate ranges: reads and memory stay finite (`make soak`)."""

from itertools import product

import pytest
import torch
from hecate_miras.memora import memora
from hecate_miras.moneta import moneta
from hecate_miras.yaad import yaad

from hecate_core.api import ComposedRule, Tokens
from hecate_core.parameters import initial_params
from hecate_core.strategies.frozen import Frozen

PIECE, PIECES, WIDTH = 500, 20, 16

PLAIN = {"norm": False, "residual": False}
RULES = [moneta(), moneta(link="dual"), moneta(link="exact"), yaad(), yaad(form="norm"), memora()]
RULES += [moneta(**PLAIN), moneta(link="dual", **PLAIN), moneta(link="exact", **PLAIN), yaad(**PLAIN), memora(**PLAIN)]  # type: ignore[arg-type]


def at_corners(rule: ComposedRule, strategy: Frozen) -> float:
    """The largest read over all corners, one per batch row."""
    corners = list(product(*((gate.low, gate.init, gate.high) for gate in rule.gates.values())))
    g = torch.Generator().manual_seed(0)
    state = strategy.init_state(rule, initial_params(rule, {"H": 1, "K": WIDTH, "V": WIDTH}), len(corners))
    largest = 0.0
    for _ in range(PIECES):
        q, k, v = (torch.randn(1, 1, PIECE, WIDTH, generator=g).expand(len(corners), -1, -1, -1) for _ in range(3))
        used = zip(rule.gates, zip(*corners, strict=True), strict=True)
        gates = {name: torch.tensor(values).view(-1, 1, 1).expand(-1, 1, PIECE) for name, values in used}
        unit = torch.nn.functional.normalize
        tokens = Tokens(q=unit(q, dim=-1), k=unit(k, dim=-1), v=v, **gates)
        y, state = strategy(rule, initial_params(rule, {"H": 1, "K": WIDTH, "V": WIDTH}), tokens, state)
        assert torch.isfinite(y).all()
        assert all(torch.isfinite(one).all() for one in state.flat().values())
        largest = max(largest, float(y.abs().max()))
    return largest


@pytest.mark.soak
@pytest.mark.parametrize("link", ["token", "chunk"])
@pytest.mark.parametrize("rule", RULES)
def test_memory_stays_finite_at_the_declared_bounds(rule: ComposedRule, link: str) -> None:
    largest = at_corners(rule, Frozen(chunk=16, link=link))
    print(f"{rule.name} {link}: {largest:.3g}")
