"""Cases of the op `lattice` and their truth: the rule's step token by token in float64, by autograd."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import attrs
import torch
from hecate_kernels.pair import Launcher, Outputs, Trial
from torch.nn.functional import normalize

from hecate_core.api import Params, State, Tensor, Tokens
from hecate_lattice.op import LatticeTokens
from hecate_lattice.rule import Lattice

NAMES = ("q", "k", "v", "write", "retain")


@attrs.frozen
class _Case:
    length: int
    slots: int
    width: int
    dtype: torch.dtype
    option: str
    gated: bool  # with retain and a mask
    view: bool
    seed: int

    @property
    def name(self) -> str:
        more = ", gates" * self.gated + ", views" * self.view
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.option}, T {self.length}, {self.slots} slots of {self.width}, {dtype}{more}"


def trials(pair: Callable[[Launcher], Any], thorough: bool) -> Iterable[Trial]:
    """A covering set: every length, size, dtype, loss and layout occurs; or the full product."""
    for case in _cases(thorough):
        tokens, slots, d_out, d_end = _inputs(case)
        yield Trial(
            case.name,
            str(case.dtype).removeprefix("torch."),
            run=partial(_run, pair, tokens, slots, case.option, (d_out, d_end)),
            truth=partial(_truth, tokens, slots, case.option, (d_out, d_end), torch.float64),
            single=partial(_truth, tokens, slots, case.option, (d_out, d_end), torch.float32),
            quick=case.length <= 64 and case.slots <= 16,
        )


def _cases(thorough: bool) -> Iterator[_Case]:
    float32, bfloat16 = dtypes = (torch.float32, torch.bfloat16)
    options = ("decode", "encode", "similarity")
    if thorough:
        sizes = ((16, 16), (64, 64), (100, 100), (128, 128), (16, 64), (64, 16))
        product = itertools.product((1, 7, 63, 64, 100, 257), sizes, dtypes, options, (False, True))
        for seed, (length, size, dtype, option, gated) in enumerate(product):
            yield _Case(length, *size, dtype, option, gated, gated != (option == "decode"), seed)
        return
    rows = [
        (1, 16, 16, float32, "decode", True, False),
        (7, 128, 128, bfloat16, "similarity", True, True),
        (63, 6, 16, float32, "decode", True, True),
        (64, 16, 64, bfloat16, "encode", False, False),
        (100, 16, 16, bfloat16, "decode", False, True),
        (7, 100, 100, float32, "decode", False, True),
        (257, 16, 16, float32, "encode", True, False),
        (63, 64, 16, float32, "similarity", False, False),
    ]
    yield from (_Case(*row, seed=seed) for seed, row in enumerate(rows))


def _inputs(case: _Case) -> tuple[LatticeTokens, Tensor, Tensor, Tensor]:
    """Tokens, first slots (near the sphere, not on it), and the gradients that come back."""
    batch, heads = lead = (1, 2)
    random = torch.Generator().manual_seed(case.seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, heads, *shape, generator=random)

    def laid(x: Tensor) -> Tensor:
        return x.transpose(1, 2).contiguous().transpose(1, 2) if case.view else x

    codes = [normalize(normal(case.length, case.slots), dim=-1) for _ in range(2)]
    q, k, v, d_out = (laid(one.to(case.dtype)) for one in (*codes, *(normal(case.length, case.width) for _ in "vy")))
    v = 2.0 * normalize(v.float(), dim=-1).to(case.dtype)  # encode amplifies rounding by the square of a value
    write, retain = (torch.rand(*lead, case.length, generator=random) for _ in range(2))
    due = torch.rand(*lead, case.length, generator=random) > 0.3 if case.gated else None
    if due is not None:
        due[..., 0] = True
    slots = normalize(normal(case.width, case.slots), dim=-2) * (0.9 + 0.2 * torch.rand(1, generator=random))
    tokens = LatticeTokens(q, k, v, write, 0.5 + 0.5 * retain if case.gated else None, due)
    return tokens, slots, d_out, normal(case.width, case.slots)


def _run(
    pair_on: Callable[[Launcher], Any],
    tokens: LatticeTokens,
    slots: Tensor,
    option: str,
    back: tuple[Tensor, Tensor],
    where: Launcher,
) -> Outputs:
    pair = pair_on(where)
    y, end, saved = pair.forward(tokens, slots, option)
    grads, d_slots = pair.backward(tokens, saved, option, *back)
    by_name = zip(NAMES, grads[:5], strict=True)
    return {"y": y, "slots": end, "d_slots": d_slots, **{f"d_{name}": one for name, one in by_name if one is not None}}


def _truth(
    tokens: LatticeTokens, slots: Tensor, option: str, back: tuple[Tensor, Tensor], dtype: torch.dtype
) -> Outputs:
    """The rule's own `step`, from first slots as they are."""
    rule = Lattice(variant=option, decay=tokens.retain is not None)
    held = [None if one is None else one.detach().to(dtype, copy=True).requires_grad_() for one in tokens[:5]]
    first = slots.to(dtype, copy=True).requires_grad_()
    state, reads = State(memory=State(slots=first)), []
    given = Tokens.of({name: one for name, one in zip(NAMES, held, strict=True) if one is not None})
    for t in range(tokens.q.shape[2]):
        token = given.map(lambda one, t=t: one[:, :, t])  # type: ignore[misc]
        _, after = rule.step(Params(), state, token)
        new = after.memory.slots
        if tokens.due is not None:
            new = torch.where(tokens.due[:, :, t, None, None], new, state.memory.slots)
        reads.append((new @ token.q.unsqueeze(-1)).squeeze(-1))
        state = State(memory=State(slots=new))
    y, end = torch.stack(reads, 2), state.memory.slots
    torch.autograd.backward([y, end], [one.to(dtype) for one in back])
    grads = {f"d_{name}": one.grad for name, one in zip(NAMES, held, strict=True) if one is not None}
    found = {"y": y.detach(), "slots": end.detach(), "d_slots": first.grad, **grads}
    return {name: one for name, one in found.items() if one is not None}
