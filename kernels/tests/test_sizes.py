"""Which sizes kernels serve; what they do not serve is said when a memory is composed, never at its first call."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hecate_kernels.decayed_linear import DecayedKernels
from hecate_kernels.nvrtc import NvrtcLauncher
from hecate_kernels.pair import SHARED_LIMITS

from hecate_core import MemoryLayer, backends
from hecate_core.api import CompositionError, Decays, InputError, Reads
from hecate_core.backends import AutoPair, Choice, choices, pair_for
from hecate_core.ops.affine import REFERENCE, AffineTokens, affine
from hecate_core.ops.operator import bared, refusal

CUDA = torch.device("cuda")
RULES = {
    "titans-deep": "frozen",
    "yaad": "frozen",
    "moneta": "frozen",
    "memora": "frozen",
    "lattice": "sequential",
    "trellis": "sequential",
    "atlas": "frozen",
    "kda": "chunkwise",
    "titans": "chunkwise",
}


def _layer(rule: str, head: int, backend: str = "host", **more: Any) -> MemoryLayer:
    return MemoryLayer(head, heads=1, **{"rule": rule, "strategy": RULES[rule], "backend": backend, **more})


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("head", [16, 64, 100, 128, 256])
def test_every_head_size_is_served(rule: str, head: int) -> None:
    layer = _layer(rule, head)
    (level,) = (one for one in layer.modules() if hasattr(one, "rehearse"))
    assert level.rehearse(torch.float32), "a step that wants numbers would not be known before the first call"
    assert {one.runs for one in choices(layer, torch.device("cpu"), torch.bfloat16)} == {"host"}


@pytest.mark.parametrize(
    ("rule", "head", "more", "why"),
    [
        ("kda", 512, {}, 'op "affine_column": head sizes 512 and 512; its kernels take up to 256'),
        ("lattice", 512, {}, 'op "lattice": head sizes 512 and 512; its kernels take up to 256'),
    ],
)
def test_what_kernels_do_not_serve_is_refused_when_composed(
    rule: str, head: int, more: dict[str, Any], why: str
) -> None:
    with pytest.raises(CompositionError) as refused:
        _layer(rule, head, **more)
    told = str(refused.value)
    assert why in told
    assert told.endswith('or use backend = "reference"') or told.endswith('or backend = "reference"')
    assert "\n" not in told
    _layer(rule, head, "reference", **more)


@pytest.mark.parametrize(
    ("rule", "strategy"),
    [
        ("titans-deep", {"name": "frozen", "chunk": 70}),
        ("omega", {"name": "frozen", "chunk": 20}),  # four updates a token
        ("moneta", {"name": "frozen", "chunk": 70}),
        ("delta", {"name": "tnt", "global_chunk": 72, "shards": [72], "local_chunks": [4], "project": False}),
    ],
)
def test_a_chunk_of_more_updates_than_a_call_takes_is_walked_in_pieces(rule: str, strategy: dict[str, Any]) -> None:
    """The same reads and gradients as in one piece of plain torch, in the middle of a chunk too."""
    x, found = torch.randn(1, 76, 16, generator=torch.Generator().manual_seed(0)), []
    for backend in ("reference", "host"):
        torch.manual_seed(0)
        layer = MemoryLayer(16, heads=1, rule=rule, strategy=strategy, backend=backend)
        y, state = layer(x[:, :9])
        later, _ = layer(x[:, 9:], state)
        later.square().mean().backward()
        found.append([y, later, *(one.grad for one in layer.parameters() if one.grad is not None)])
    for host, wanted in zip(found[1], found[0], strict=True):
        assert float((host - wanted).detach().norm()) <= 1e-4 * float(wanted.detach().norm())


def test_the_op_alone_refuses_more_updates_than_fit() -> None:
    q, stored = torch.randn(3, 1, 1, 256, 16), torch.randn(1, 1, 1, 16, 16)
    one = torch.ones(1, 1, 256, 1)
    made = Decays(torch.ones(1, 1, 256, 256), one, one, torch.ones(1, 1, 1, 1))
    with pytest.raises(InputError, match='"decayed_linear": a chunk of 256 updates of width 16 needs'):
        DecayedKernels("host").forward(Reads(*q), stored, made)


def test_a_dtype_that_kernels_do_not_take_is_refused_before_the_first_step() -> None:
    layer = _layer("titans", 16)
    with pytest.raises(CompositionError, match="q, k, v are float64, float64, float64; its kernels take float32 or"):
        choices(layer.double(), torch.device("cpu"), torch.float64)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A small card that lacks nothing."""
    monkeypatch.setattr(backends, "_missing", lambda pair: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA L4")
    monkeypatch.setattr(NvrtcLauncher, "shared_limit", lambda self, like: SHARED_LIMITS["sm_89"])
    backends._announce.cache_clear()
    refusal.cache_clear()
    yield
    refusal.cache_clear()  # what this card refused is no other's affair


@pytest.mark.usefixtures("card")
def test_auto_takes_kernels_for_networks_on_a_small_card() -> None:
    for head in (100, 128, 256):
        for rule in ("titans-deep", "moneta"):
            found = choices(_layer(rule, head, "auto"), CUDA, torch.bfloat16)
            assert {(one.runs, one.reason) for one in found} == {("nvrtc", "NVIDIA L4")}


@pytest.mark.usefixtures("card")
def test_auto_leaves_to_plain_torch_what_kernels_refuse_and_says_why() -> None:
    (found,) = choices(_layer("titans-deep", 16, "auto", chunk=128), CUDA, torch.float32)
    assert (found.runs, found.reason) == ("nvrtc", "NVIDIA L4")
    (found,) = choices(_layer("lattice", 512, "auto"), CUDA, torch.float32)
    assert (found.op, found.asked, found.runs) == ("lattice", "auto", "reference")
    assert found.reason == "its kernels take heads up to 256 wide, not 512"


@pytest.mark.parametrize(
    ("rule", "head", "dtype", "arch", "runs"),
    [
        ("titans", 128, torch.float32, "sm_89", "nvrtc"),
        ("titans", 256, torch.bfloat16, "sm_89", "reference"),
        ("titans", 256, torch.float32, "sm_80", "nvrtc"),
        ("kda", 100, torch.float32, "sm_89", "nvrtc"),
        ("kda", 128, torch.float32, "sm_89", "reference"),
        ("kda", 128, torch.bfloat16, "sm_89", "nvrtc"),
        ("kda", 256, torch.bfloat16, "sm_80", "reference"),
        ("kda", 256, torch.float32, "sm_90a", "nvrtc"),
        ("lattice", 256, torch.float32, "sm_89", "nvrtc"),
        ("trellis", 256, torch.bfloat16, "sm_89", "nvrtc"),
    ],
)
@pytest.mark.usefixtures("card")
def test_what_auto_takes_depends_on_the_card_as_the_docs_say(
    rule: str, head: int, dtype: torch.dtype, arch: str, runs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NvrtcLauncher, "shared_limit", lambda self, like: SHARED_LIMITS[arch])
    assert {one.runs for one in choices(_layer(rule, head, "auto"), CUDA, dtype)} == {runs}


def _narrow() -> tuple[AffineTokens, torch.Tensor]:
    q = torch.ones(1, 1, 2, 300, dtype=torch.bfloat16)
    gate = torch.full((1, 1, 2), 0.5)
    return AffineTokens(q, q, q, gate, None, gate, None, None), torch.zeros(1, 1, 300, 300)


class Seen(AutoPair):
    """`auto` for which a tensor on the CPU counts as one on a card, narrow enough by its declared width."""

    def serving(self, device: torch.device, dtype: torch.dtype, width: int) -> Any:
        return super().serving(CUDA, dtype, min(width, 256))


@pytest.mark.usefixtures("card")
def test_auto_looks_at_every_argument_of_a_call() -> None:
    tokens, memory = _narrow()
    with pytest.warns(
        RuntimeWarning, match=r'backend auto, op affine: reference \(op "affine": head sizes 300 and 300'
    ):
        found = affine(tokens, memory, None, 64, Seen("affine"))
    wanted = affine(tokens, memory, None, 64, REFERENCE)
    assert torch.equal(found[0], wanted[0]), "operands are widened for plain torch"


@pytest.mark.usefixtures("card")
def test_a_refusal_depends_on_sizes_alone_and_runs_nothing() -> None:
    tokens, memory = _narrow()
    pair = pair_for("affine", "nvrtc")
    small = AffineTokens(*(None if one is None else one[..., :64] for one in tokens))
    assert refusal(pair, bared((small, memory[..., :64, :64], None, 64))) is None
    assert "head sizes 300 and 300" in str(refusal(pair, bared((tokens, memory, None, 64))))


def test_a_module_that_does_not_rehearse_is_judged_by_its_width(card: None) -> None:
    class Stranger(torch.nn.Module):
        pairs = (AutoPair("affine"),)
        head_size = 300

    (found,) = choices(Stranger(), CUDA, torch.float32)
    assert found == Choice("affine", "auto", "reference", "its kernels take heads up to 256 wide, not 300")


def test_where_nothing_has_a_place_the_current_card_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        def shared_limit(self, device: int) -> int:
            return 1000 + device

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert NvrtcLauncher(Driver()).shared_limit(torch.empty(1, device="meta")) == 1003  # type: ignore[arg-type]
