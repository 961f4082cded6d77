"""What the cases of all pairs share: the sizes they have to meet, how inputs lie, and the truth by autograd."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from hecate_kernels.pair import Argument, Dim3, Kernel, Launcher, Outputs, Trial

LENGTHS = (1, 7, 63, 64, 100, 257)
WIDTHS = (16, 64, 100, 128)
DTYPES = (torch.float32, torch.bfloat16)

Given = Mapping[str, Any]
"""Tensors by name, such as what an op is called with, state included; None where a rule does without one."""


class Case(Protocol):
    """What every case says of itself."""

    @property
    def name(self) -> str:
        """The case in words."""
        ...

    @property
    def length(self) -> int:
        """Tokens; 0 where the op knows none."""
        ...

    @property
    def width(self) -> int:
        """The head size that kernels are specialised by, keys before values."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the operands."""
        ...

    @property
    def view(self) -> bool:
        """Whether operands are views that do not lie together."""
        ...


class SmallerCard:
    """A launcher whose card gives a block at most `limit` bytes of shared memory: pairs cut their work finer."""

    def __init__(self, where: Launcher, limit: int) -> None:
        self._where, self._limit = where, limit
        self.name, self.most_blocks = where.name, where.most_blocks

    def shared_limit(self, like: Tensor) -> int:
        """What the card gives, but no more than the limit."""
        return min(self._limit, self._where.shared_limit(like))

    def launch(
        self, kernel: Kernel, grid: Dim3, block: Dim3, arguments: Sequence[Argument], shared_bytes: int = 0
    ) -> None:
        """As the card does it."""
        self._where.launch(kernel, grid, block, arguments, shared_bytes)


def product() -> Iterator[tuple[int, int, torch.dtype, bool]]:
    """Every length with every head size, dtype and layout."""
    return itertools.product(LENGTHS, WIDTHS, DTYPES, (False, True))


def missing(trials: Iterable[Trial], dtypes: Iterable[str], has_tokens: bool = True) -> list[str]:
    """The cells of `product` that cases do not meet, in words; lengths only where the op knows tokens."""
    met = {(trial.length if has_tokens else 0, trial.width, trial.dtype, trial.view) for trial in trials}
    lengths = LENGTHS if has_tokens else (0,)
    wanted = itertools.product(lengths, WIDTHS, dtypes, (False, True))
    return [f"T {t}, head {width}, {dtype}, {'views' * view or 'dense'}" for t, width, dtype, view in wanted
            if (t, width, dtype, view) not in met]  # fmt: skip


def called(dtype: torch.dtype) -> str:
    """A dtype as pairs declare it."""
    return str(dtype).removeprefix("torch.")


class Draw(NamedTuple):
    """Random inputs of a case: two blocks, as two heads of one row where they are views, else as two rows."""

    random: torch.Generator
    view: bool

    @classmethod
    def of(cls, seed: int, view: bool) -> "Draw":
        """The same numbers for the same seed."""
        return cls(torch.Generator().manual_seed(seed), view)

    @property
    def lead(self) -> tuple[int, int]:
        """Batch and heads."""
        return (1, 2) if self.view else (2, 1)

    def normal(self, *shape: int) -> Tensor:
        """Behind batch and heads."""
        return torch.randn(*self.lead, *shape, generator=self.random)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Behind batch and heads."""
        return low + (high - low) * torch.rand(*self.lead, *shape, generator=self.random)

    def unit(self, *shape: int) -> Tensor:
        """Rows of length 1."""
        return torch.nn.functional.normalize(self.normal(*shape), dim=-1)

    def laid(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """As an operand, heads inside tokens where it is a view."""
        x = x.to(dtype)
        return x.transpose(1, 2).contiguous().transpose(1, 2) if self.view else x


def by_autograd(outputs: Callable[..., Given], given: Given, back: Mapping[str, Tensor], dtype: torch.dtype) -> Outputs:
    """What `outputs(**given)` is in a dtype, and as `d_<name>` its gradient by everything given, from `back`."""
    held = {
        name: one.detach().to(dtype, copy=True).requires_grad_() if _learns(one) else one for name, one in given.items()
    }
    found = {name: one for name, one in outputs(**held).items() if one is not None}
    torch.autograd.backward([found[name] for name in back], [one.to(dtype) for one in back.values()])
    grads = {f"d_{name}": one.grad for name, one in held.items() if one is not None and one.grad is not None}
    return {name: one.detach() for name, one in found.items()} | grads


def trial(
    case: Case,
    run: Callable[[Launcher], Given],
    truth: tuple[Callable[..., Given], Given, Mapping[str, Tensor]],
    quick: bool,
    heavy: bool = False,
) -> Trial:
    """A case of a pair: `run` launches, `truth` is (outputs, given, back) of `by_autograd`."""
    return Trial(
        case.name,
        called(case.dtype),
        run=partial(_run, run),
        truth=partial(by_autograd, *truth, torch.float64),
        single=partial(by_autograd, *truth, torch.float32),
        quick=quick,
        length=case.length,
        width=case.width,
        view=case.view,
        heavy=heavy,
    )


def gradients(grads: Given) -> dict[str, Any]:
    """Named as `by_autograd` names them."""
    return {f"d_{name}": one for name, one in grads.items()}


def _run(run: Callable[[Launcher], Given], where: Launcher) -> Outputs:
    return {name: one for name, one in run(where).items() if one is not None}


def _learns(one: Tensor | None) -> bool:
    return one is not None and one.is_floating_point()
