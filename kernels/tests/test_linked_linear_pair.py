"""The op `linked_linear` and its pair: the reference, its floors, its workspace, its layers."""

import pytest
import torch
from hecate_kernels.host import HostLauncher
from hecate_miras import linked_linear
from hecate_miras.kernels import LinkedOnHost
from hecate_miras.linked_linear import LinkedReads, Reference
from hecate_miras.links import ENTRIES, KINDS, LinkOption

from hecate_core.api import InputError
from hecate_core.composing import rule_of, strategy_of


def _reads(count: int = 3, dtype: torch.dtype = torch.float32) -> LinkedReads:
    random = torch.Generator().manual_seed(count)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(1, 2, *shape, generator=random).to(dtype)

    reach = normal(count, count).tril()
    return LinkedReads(normal(count, 5), normal(count, 4), normal(count, 5), normal(2, 4, 5), reach, normal(count, 2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("most", [1, 1 << 20])
def test_the_reference_has_the_gradients_of_its_own_sums(kind: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linked_linear, "MOST", most)  # a token at a time, or all at once
    held = [one.requires_grad_() for one in _reads(dtype=torch.float64)]
    option = LinkOption(kind, {"printed": 1e-6, "powered": 1e-6}.get(kind, 0.4 if kind in ENTRIES else 2.0), 4.0)
    assert torch.autograd.gradcheck(lambda *flat: linked_linear.linked_linear(LinkedReads(*flat), option), held)


def test_a_norm_at_its_floor_is_a_constant() -> None:
    reads, d_y = _reads(), torch.ones(1, 2, 3, 4)
    for kind in ("printed", "powered"):
        link = LinkOption(kind, 100.0, 4.0)
        found, wanted = (pair.backward(reads, link, d_y) for pair in (LinkedOnHost(), Reference()))
        assert all(torch.allclose(one, other, rtol=1e-4) for one, other in zip(found, wanted, strict=True))


def test_evidence_that_cancels_is_right_to_its_own_size_under_a_steep_link() -> None:
    """(1 + e)(1 - e) - 1 = -e^2 is lost in float32, and |A|^(1/3) has its largest slope just there."""
    reads, link, d_y = _reads(2), LinkOption("powered", 1e-12, 4.0 / 3.0), torch.ones(1, 2, 2, 4)
    small = 2.0**-13
    reads.u[:, :, :, 0], reads.x[:, :, :, 0] = torch.tensor([1.0 + small, -1.0]), torch.tensor([1.0 - small, 1.0])
    reads = reads._replace(stored=torch.zeros_like(reads.stored), reach=torch.ones(1, 2, 2, 2).tril())
    truth = Reference().backward(LinkedReads(*(one.double() for one in reads)), link, d_y.double()).u
    assert torch.allclose(LinkedOnHost().backward(reads, link, d_y).u.double(), truth, rtol=1e-5)
    assert not torch.allclose(Reference().backward(reads, link, d_y).u.double(), truth, rtol=1e-1)


def test_workspace_in_global_memory_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    pair, reads, link = LinkedOnHost(), _reads(), LinkOption("column", 4.0)
    results = []
    for limit in (1 << 20, 6000, 0):
        monkeypatch.setattr(HostLauncher, "shared_limit", lambda self, like, limit=limit: limit)
        results.append([pair.forward(reads, link), *pair.backward(reads, link, torch.ones(1, 2, 3, 4))])
    assert all(torch.equal(one, other) for more in results[1:] for one, other in zip(results[0], more, strict=True))


def test_no_reads_have_no_gradient() -> None:
    reads, link = _reads(), LinkOption("column", 4.0)
    none = reads._replace(q=reads.q[:, :, :0], reach=reads.reach[:, :, :0], shares=reads.shares[:, :, :0])
    assert LinkedOnHost().forward(none, link).shape == (1, 2, 0, 4)
    found = LinkedOnHost().backward(none, link, torch.ones(1, 2, 0, 4))
    assert not any(one.any() for one in found)


@pytest.mark.parametrize("name", ["memora", "moneta"])
def test_frozen_reads_through_the_link_on_kernels(name: str) -> None:
    spread = strategy_of("frozen", rule_of(name), chunk=4, backend="host")
    assert getattr(spread, "link_pair").backend == "host"  # noqa: B009


def test_what_the_kernels_cannot_take_is_refused_with_what_would_do() -> None:
    with pytest.raises(InputError, match="q, u, x are float64, float64, float64; its kernels take float32 or bfloat16"):
        LinkedOnHost().forward(_reads(dtype=torch.float64), LinkOption("row", 1.0))
