"""The pair `linked_linear` reads as the sums and the link say, and the net around it has no hole."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from faults import Fault, assert_found, plant
from hecate_kernels.check import check_pair
from hecate_kernels.compare import differences
from hecate_kernels.failure import KernelError
from hecate_kernels.host import HostLauncher, ProgramLauncher
from hecate_kernels.pair import Trial
from hecate_miras import kernels, linked_linear
from hecate_miras.kernels import LinkedKernels, LinkedOnHost
from hecate_miras.linked_linear import LinkedReads, Reference
from hecate_miras.links import KINDS, LinkOption

from hecate_core import MemoryLayer
from hecate_core.api import InputError
from hecate_core.composing import rule_of, strategy_of

# ruff: noqa: E501
SOURCE = LinkedOnHost().kernels.source
COLUMN = "column, momentum, chunk 5"  # padded rows and columns, two heads, groups of one and of two tokens
POWERED = "powered of q 4.00, chunk 5"


class OneTrial(LinkedKernels):
    """The pair with one small case of a link: what a planted fault has to fail."""

    def __init__(self, source: Path, name: str = COLUMN) -> None:
        super().__init__("host", source)
        self._name = name

    def trials(self, thorough: bool) -> Iterable[Trial]:
        return [trial for trial in super().trials(False) if trial.name.startswith(self._name)]


FAULTS = [
    Fault("barrier missing after the loads", "            __syncthreads();\n            form(w, stored + g", "            form(w, stored + g"),
    Fault("barrier missing before the evidence is read", "w.a[v * ld_k + k] = value;\n                         });\n    __syncthreads();", "w.a[v * ld_k + k] = value;\n                         });"),
    Fault("divergent barrier", "            along = block_sum(along, w.scratch);\n", "            if (threadIdx.x < 128) along = block_sum(along, w.scratch);\n", nth=0),
    Fault("write past shared memory", "HECATE_CARVE(arena, float, w##_by_column, K);", "HECATE_CARVE(arena, float, w##_by_column, 1);"),
    Fault("wrong gradient sign", "w.dy[v] - w.by_column[k] / level", "w.dy[v] + w.by_column[k] / level"),
    Fault("stale state", "const bool more = t >= groups;", "const bool more = t > 0;"),
    Fault("race between blocks", "part = item;", "part = g;"),
    Fault("padded rows share the mass", "share_out(w.a + k, ld_k, HEAD_V, level)", "share_out(w.a + k, ld_k, V, level)"),
]  # fmt: skip
OF_A_NORM = [
    Fault("barrier missing before the next token", "d_reach[token * count + i] = sum;\n            }\n            __syncthreads();", "d_reach[token * count + i] = sum;\n            }"),
    Fault("forgotten norm", "+ along;\n    });", ";\n    });"),
    Fault("norm of half a block", "total = block_sum(total, w.scratch);", "total = 2.0f * warp_sum(total);"),
]  # fmt: skip


@pytest.fixture
def few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks walk eight items: shared memory is used again."""
    monkeypatch.setattr(kernels, "MOST_BLOCKS", 2)


def test_every_case_agrees_with_the_sums_in_float64() -> None:
    pair = LinkedOnHost()
    for trial in pair.trials(False):
        for one in differences(trial, pair.kernels.tolerance[trial.dtype], HostLauncher()):
            assert one.good, one.line()


@pytest.mark.usefixtures("few_blocks")
@pytest.mark.parametrize("name", [COLUMN, POWERED])
def test_every_schedule_gives_the_same_bits(name: str) -> None:
    for trial in OneTrial(SOURCE, name).trials(False):
        trial.run(ProgramLauncher("plain"))


@pytest.mark.usefixtures("few_blocks")
@pytest.mark.parametrize("flavour", ["address", "thread"])
@pytest.mark.parametrize("name", [COLUMN, POWERED])
def test_sanitizers_have_nothing_to_report(name: str, flavour: str) -> None:
    for trial in OneTrial(SOURCE, name).trials(False):
        trial.run(ProgramLauncher(flavour, ("ascending",)))


@pytest.mark.soak
@pytest.mark.parametrize("check", ["numbers", "address", "race", "compile"])
def test_the_full_product_passes(check: str) -> None:
    for line in check_pair("linked_linear", LinkedOnHost(), thorough=True, checks=(check,)):
        assert line.good, line


@pytest.mark.usefixtures("few_blocks")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_planted_faults_are_found(fault: Fault, tmp_path: Path) -> None:
    assert_found(OneTrial(plant(fault, SOURCE, SOURCE, tmp_path)))


@pytest.mark.usefixtures("few_blocks")
@pytest.mark.parametrize("fault", OF_A_NORM, ids=lambda fault: fault.name)
def test_faults_planted_in_the_norm_are_found(fault: Fault, tmp_path: Path) -> None:
    assert_found(OneTrial(plant(fault, SOURCE, SOURCE, tmp_path), POWERED))


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
    option = LinkOption(kind, 2.0 if kind in ("column", "row", "all") else 1e-6, 4.0)
    assert torch.autograd.gradcheck(lambda *flat: linked_linear.linked_linear(LinkedReads(*flat), option), held)


def test_a_norm_at_its_floor_is_a_constant() -> None:
    reads, d_y = _reads(), torch.ones(1, 2, 3, 4)
    for kind in ("printed", "powered"):
        link = LinkOption(kind, 100.0, 4.0)
        found, wanted = (pair.backward(reads, link, d_y) for pair in (LinkedOnHost(), Reference()))
        assert all(torch.allclose(one, other, rtol=1e-4) for one, other in zip(found, wanted, strict=True))


def test_workspace_in_global_memory_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    pair, reads, link = LinkedOnHost(), _reads(), LinkOption("column", 4.0)
    monkeypatch.setattr(kernels, "MOST_BLOCKS", 3)  # fewer than there are tokens: a workspace is used again
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


@pytest.mark.parametrize("name", ["memora", "moneta"])
def test_a_layer_learns_on_the_host_backend_as_on_the_reference(name: str) -> None:
    x, wanted = torch.randn(2, 1, 5, 8, generator=torch.Generator().manual_seed(0))
    losses: dict[str, list[float]] = {"reference": [], "host": []}
    for backend, found in losses.items():
        torch.manual_seed(0)
        rule = {"name": name, "expansion": 1.0}
        layer = MemoryLayer(8, heads=1, rule=rule, strategy="frozen", levels=[1], chunk=4, backend=backend)
        optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2)
        for _ in range(20):
            loss = torch.nn.functional.mse_loss(layer(x)[0], wanted)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            found.append(float(loss.detach()))
    assert losses["host"][-1] < losses["host"][0]
    assert losses["host"] != losses["reference"]  # the kernels ran, in an order of their own
    assert torch.allclose(*map(torch.tensor, losses.values()), atol=1e-4, rtol=0)


def test_what_the_kernels_cannot_take_is_refused_with_what_would_do() -> None:
    with pytest.raises(InputError, match="q, u, x are float64, float64, float64; its kernels take float32 or bfloat16"):
        LinkedOnHost().forward(_reads(dtype=torch.float64), LinkOption("row", 1.0))


@pytest.mark.parametrize("backward", [False, True])
def test_the_declared_shared_memory_is_what_the_kernels_carve(backward: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    real, pair, reads, link = kernels.carved, LinkedOnHost(), _reads(), LinkOption("all", 1.0)
    monkeypatch.setattr(kernels, "carved", lambda *given: real(*given) - 128)
    with pytest.raises(KernelError, match="of dynamic shared memory; the launch gives"):
        _ = pair.backward(reads, link, torch.ones(1, 2, 3, 4)) if backward else pair.forward(reads, link)
