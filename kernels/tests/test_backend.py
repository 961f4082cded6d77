"""A layer on the host backend is the same layer: it learns with the losses of the reference."""

import pytest
import torch

from hecate_core import MemoryLayer, memory

STEPS = 20


def _losses(backend: str, rule: str, strategy: str = "chunkwise") -> list[float]:
    torch.manual_seed(0)
    layer = MemoryLayer(32, heads=2, rule=rule, strategy=strategy, levels=[1, 2], chunk=16, backend=backend)
    x, wanted = torch.randn(2, 2, 40, 32)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2)
    losses = []
    for _ in range(STEPS):
        loss = torch.nn.functional.mse_loss(layer(x)[0], wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize(
    ("rule", "strategy"), [("delta", "chunkwise"), ("titans", "chunkwise"), ("kda", "chunkwise"), ("titans", "frozen")]
)
def test_a_layer_learns_on_the_host_backend_as_on_the_reference(rule: str, strategy: str) -> None:
    reference, host = _losses("reference", rule, strategy), _losses("host", rule, strategy)
    assert reference[-1] < reference[0]
    assert host != reference  # the kernels ran, in an order of their own
    assert torch.allclose(torch.tensor(host), torch.tensor(reference), atol=1e-4, rtol=0)


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
