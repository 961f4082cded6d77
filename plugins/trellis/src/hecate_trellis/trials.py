"""Cases of the op `trellis` and their truth: the recurrence in float64, its inner gradient by autograd too."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import attrs
import torch
from hecate_kernels.pair import Launcher, Outputs, Trial
from torch.nn.functional import normalize

from hecate_core.api import Tensor
from hecate_trellis.maps import MAPS
from hecate_trellis.op import SIDES, TrellisTokens, option_of, options_in

NAMES = ("q", "w", "code", "retain", "write")


@attrs.frozen
class _Case:
    length: int
    slots: int
    width: int
    dtype: torch.dtype
    phi: str
    side: str
    masked: bool
    view: bool
    seed: int

    @property
    def name(self) -> str:
        more = ", mask" * self.masked + ", views" * self.view
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.phi}, {self.side}, T {self.length}, {self.slots} slots of {self.width}, {dtype}{more}"


def trials(pair: Callable[[Launcher], Any], thorough: bool) -> Iterable[Trial]:
    """A covering set: every length, size, dtype, map, side and layout occurs; or the full product."""
    for case in _cases(thorough):
        tokens, store, d_out, d_end = _inputs(case)
        option = option_of(case.phi, case.side)
        yield Trial(
            case.name,
            str(case.dtype).removeprefix("torch."),
            run=partial(_run, pair, tokens, store, option, (d_out, d_end)),
            truth=partial(_truth, tokens, store, option, (d_out, d_end), torch.float64),
            single=partial(_truth, tokens, store, option, (d_out, d_end), torch.float32),
            quick=case.length <= 64 and case.slots <= 16,
        )


def _cases(thorough: bool) -> Iterator[_Case]:
    float32, bfloat16 = dtypes = (torch.float32, torch.bfloat16)
    if thorough:
        sizes = ((16, 16), (64, 64), (100, 100), (128, 128), (16, 64), (64, 16))
        product = itertools.product((1, 7, 63, 64, 100, 257), sizes, dtypes, MAPS, SIDES)
        for seed, (length, size, dtype, phi, side) in enumerate(product):
            yield _Case(length, *size, dtype, phi, side, seed % 3 == 0, seed % 2 == 0, seed)
        return
    rows = [
        (1, 16, 16, float32, "silu", "entries", True, False),
        (7, 128, 128, bfloat16, "silu", "slots", False, True),
        (63, 6, 16, float32, "ln-silu", "slots", True, True),
        (63, 6, 16, float32, "silu", "entries", True, False),
        (64, 16, 64, bfloat16, "identity", "entries", False, False),
        (100, 16, 16, bfloat16, "softmax", "entries", True, True),
        (7, 100, 100, float32, "silu", "entries", False, True),
        (257, 16, 16, float32, "silu", "slots", True, False),
        (64, 64, 16, float32, "l2-silu", "entries", False, False),
    ]
    yield from (_Case(*row, seed=seed) for seed, row in enumerate(rows))


def _inputs(case: _Case) -> tuple[TrellisTokens, Tensor, Tensor, Tensor]:
    """Tokens, the first store, and the gradients that come back."""
    batch, heads = lead = (1, 2)
    random = torch.Generator().manual_seed(case.seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, heads, *shape, generator=random)

    def laid(x: Tensor) -> Tensor:
        return (x.transpose(1, 2).contiguous().transpose(1, 2) if case.view else x).to(case.dtype)

    asked, answered = (case.slots, case.width) if case.side == "entries" else (case.width, case.slots)
    q, w = (normalize(normal(case.length, one), dim=-1) for one in (asked, case.width))
    code, d_out = normal(case.length, case.slots), normal(case.length, answered)
    retain, write = (torch.rand(*lead, case.length, generator=random) for _ in range(2))
    due = torch.rand(*lead, case.length, generator=random) > 0.3 if case.masked else None
    if due is not None:
        due[..., 0] = True
    tokens = TrellisTokens(laid(q), laid(w), laid(code), 0.8 + 0.2 * retain, 0.3 * write, due)
    return tokens, normal(case.slots, case.width), laid(d_out), normal(case.slots, case.width)


def _run(
    pair_on: Callable[[Launcher], Any],
    tokens: TrellisTokens,
    store: Tensor,
    option: str,
    back: tuple[Tensor, Tensor],
    where: Launcher,
) -> Outputs:
    pair = pair_on(where)
    y, end, saved = pair.forward(tokens, store, option)
    grads, d_store = pair.backward(tokens, saved, option, *back)
    by_name = {f"d_{name}": one for name, one in zip(NAMES, grads[:5], strict=True)}
    return {"y": y, "store": end, "d_store": d_store, **by_name}


def _truth(
    tokens: TrellisTokens, store: Tensor, option: str, back: tuple[Tensor, Tensor], dtype: torch.dtype
) -> Outputs:
    """Eq. 1 with the loss itself, differentiated twice by autograd."""
    phi, turned = options_in(option)
    held = [one.detach().to(dtype, copy=True).requires_grad_() for one in tokens[:5] if one is not None]
    q, w, code, retain, write = held
    first = store.to(dtype, copy=True).requires_grad_()
    s, reads = first, []
    for t in range(w.shape[2]):
        z = (s @ w[:, :, t, :, None]).squeeze(-1)
        loss = 0.5 * (MAPS[phi].value(z) - code[:, :, t]).square().sum()
        (u,) = torch.autograd.grad(loss, z, create_graph=True)
        new = retain[:, :, t, None, None] * s - write[:, :, t, None, None] * u[..., None] * w[:, :, t, None, :]
        s = new if tokens.due is None else torch.where(tokens.due[:, :, t, None, None], new, s)
        reads.append(((s.mT if turned else s) @ q[:, :, t, :, None]).squeeze(-1))
    y = torch.stack(reads, 2)
    torch.autograd.backward([y, s], [one.to(dtype) for one in back])
    grads = {f"d_{name}": one.grad for name, one in zip(NAMES, held, strict=True)}
    found = {"y": y.detach(), "store": s.detach(), "d_store": first.grad, **grads}
    return {name: one for name, one in found.items() if one is not None}
