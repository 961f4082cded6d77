"""A layer on the host backend is the same layer: it learns with the losses of the reference."""

from typing import Any

import pytest
import torch
from hecate_kernels.affine import AffineKernels
from hecate_kernels.affine_column import ColumnKernels

from hecate_core import MemoryLayer, backends, memory
from hecate_core.api import CompositionError, registry
from hecate_core.composing import rule_of, strategy_of

STEPS = 20
WIDTH, LENGTH = 8, 7
STRATEGIES = ("chunkwise", "frozen", "sequential", "tnt")


def _refusal(rule: str, strategy: str) -> str | None:
    """Why the host backend does not do the rule's work under a strategy; None where it does."""
    try:
        strategy_of(strategy, rule_of(rule), chunk=4, backend="host")
    except CompositionError as refused:
        return str(refused)
    return None


REFUSALS = {(rule, strategy): _refusal(rule, strategy) for rule in registry().names("rule") for strategy in STRATEGIES}
SERVED = [
    pytest.param(*cell, marks=pytest.mark.soak if cell[1] == "tnt" else (), id="-".join(cell))
    for cell, refusal in REFUSALS.items()
    if refusal is None
]


def _losses(backend: str, rule: str, strategy: str) -> list[float]:
    torch.manual_seed(0)
    layer = MemoryLayer(WIDTH, heads=1, rule=rule, strategy=strategy, levels=[1], chunk=4, backend=backend)
    x, wanted = torch.randn(2, 2, LENGTH, WIDTH)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2)
    losses = []
    for _ in range(STEPS):
        loss = torch.nn.functional.mse_loss(layer(x)[0], wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize(("rule", "strategy"), SERVED)
def test_a_layer_learns_on_the_host_backend_as_on_the_reference(rule: str, strategy: str) -> None:
    reference, host = _losses("reference", rule, strategy), _losses("host", rule, strategy)
    assert reference[-1] < reference[0]
    assert host != reference  # the kernels ran, in an order of their own
    assert torch.allclose(torch.tensor(host), torch.tensor(reference), atol=1e-4, rtol=0)


def test_every_rule_has_a_strategy_that_kernels_serve() -> None:
    assert {rule for (rule, _), refusal in REFUSALS.items() if refusal is None} == set(registry().names("rule"))


def test_work_that_no_kernel_does_is_refused_in_one_line_that_names_the_reference() -> None:
    refused = {cell: one for cell, one in REFUSALS.items() if one is not None and "cannot run under" not in one}
    for (rule, strategy), one in refused.items():
        assert one.startswith(f'rule "{rule}" under strategy "{strategy}"'), one
        assert "\n" not in one
        if "project = false" not in one:  # tnt wants another option of its own first
            assert one.endswith('backend "host" has no kernels for it; use another strategy or backend = "reference"')
    assert "has a decay per column: " in refused["kda", "frozen"]
    assert "has a step that is no op: " in refused["yaad", "sequential"]


@pytest.mark.parametrize(
    ("retention", "why"),
    [
        ("elastic-proximal", "a projection of what is stored"),
        ("row", "a decay per row"),
        *((name, None) for name in ("bregman", "sigmoid", "elastic-ftrl", "kl", "lq", "scalar")),
    ],
)
def test_what_is_refused_follows_from_the_knobs(retention: str, why: str | None) -> None:
    rule = {"structure": "matrix", "bias": "l2", "retention": retention, "algorithm": "gd"}
    if why is None:
        strategy_of("frozen", rule_of(rule), backend="host")
        return
    strategy_of("frozen", rule_of(rule), backend="reference")
    strategy_of("frozen", rule_of(rule), backend="auto")
    with pytest.raises(CompositionError, match=f'has {why}: backend "host" has no kernels for it'):
        strategy_of("frozen", rule_of(rule), backend="host")


def test_a_function_with_a_write_mask_takes_the_backend() -> None:
    q, k, v = torch.randn(3, 1, 2, 23, 16)
    k = torch.nn.functional.normalize(k, dim=-1)
    gates = {
        "retain": torch.full((1, 2, 23), 0.9),
        "write": torch.rand(1, 2, 23) / 2,
        "momentum": torch.rand(1, 2, 23) / 2,
    }
    mask = torch.rand(1, 23) > 0.3
    found = [
        memory(q, k, v, rule="titans", gates=gates, write_mask=mask, backend=one)[0] for one in ("host", "reference")
    ]
    assert torch.allclose(*found, atol=1e-5)


@pytest.fixture
def read_by_kernels(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """The dtypes of the queries that reach a kernel."""
    seen: list[torch.dtype] = []
    for owner in (AffineKernels, ColumnKernels):
        real = owner.forward

        def told(self: Any, tokens: Any, *given: Any, real: Any = real) -> Any:
            if not tokens.q.is_meta:  # as in the rehearsal of a composed layer
                seen.append(tokens.q.dtype)
            return real(self, tokens, *given)

        monkeypatch.setattr(owner, "forward", told)
    monkeypatch.setattr(backends, "operator_of", lambda pair: pair)  # operators hold the methods as they were
    return seen


@pytest.mark.parametrize("rule", ["linear", "delta", "titans", "kda"])
def test_bfloat16_reaches_the_kernel_as_it_is_and_the_state_is_float32(
    rule: str, read_by_kernels: list[torch.dtype]
) -> None:
    torch.manual_seed(0)
    layer = MemoryLayer(32, heads=2, rule=rule, levels=[1, 2], chunk=16, backend="host").bfloat16()
    wide = MemoryLayer(32, heads=2, rule=rule, levels=[1, 2], chunk=16, backend="reference")
    wide.load_state_dict(layer.state_dict())
    x = torch.randn(2, 40, 32).bfloat16()
    y, state = layer(x)
    assert read_by_kernels == [torch.bfloat16] * len(read_by_kernels) != []
    memories = [one for name, one in state.flat().items() if ".rule." in name]
    assert {one.dtype for one in memories} == {torch.float32}
    expected, _ = wide(x.float())
    assert torch.linalg.vector_norm(y.float() - expected) < 2e-2 * torch.linalg.vector_norm(expected)
    y.float().square().mean().backward()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in layer.parameters() if one.requires_grad)


def test_a_rule_that_computes_with_its_keys_gets_them_wide(read_by_kernels: list[torch.dtype]) -> None:
    q, k, v = (torch.randn(1, 2, 23, 16).bfloat16() for _ in range(3))
    gates = {"retain": torch.full((1, 2, 23), 0.9), "write": torch.full((1, 2, 23), 0.3)}
    delta = rule_of("delta")
    memory(q, k, v, rule=delta, gates=gates, backend="host")
    delta.retention.keep = lambda tokens: tokens.k.square().mean(-1).clamp(0, 1)
    memory(q, k, v, rule=delta, gates=gates, backend="host")
    assert read_by_kernels == [torch.bfloat16, torch.float32]
