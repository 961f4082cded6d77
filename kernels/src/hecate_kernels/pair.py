"""What a kernel pair declares: one op, one `.cu`, a forward and a backward, and the limits it promises.

A pair component is a class with the attribute `kernels: KernelPair`, an op's `forward` and `backward`
that launch through a `Launcher`, `specialisations()` (what `hecate kernels compile` compiles) and
`trials()` (what `hecate kernels check` runs). Everything is written against `Launcher`, so the same
lines of Python run a GPU, the host backend and the sanitizer programs.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import attrs
from torch import Tensor

SHARED_LIMITS = {  # bytes of shared memory that one block may ask for
    "sm_80": 163 * 1024,
    "sm_86": 99 * 1024,
    "sm_89": 99 * 1024,
    "sm_90a": 227 * 1024,
    "sm_100": 227 * 1024,
    "sm_120": 99 * 1024,
}

Constants = tuple[tuple[str, int | str], ...]
"""Compile-time constants of a kernel, as `-D NAME=VALUE`, sorted by name."""


def constants(**values: int | str) -> Constants:
    """Constants by name, in an order that does not depend on how they were written."""
    return tuple(sorted(values.items()))


@attrs.frozen(cache_hash=True)
class Kernel:
    """One entry point of one source, specialised: what a backend compiles and launches.

    `shared_bytes` says how much dynamic shared memory a launch of it asks for, which its budget counts; None where only
    a launch knows. It is no part of what a kernel is.
    """

    source: Path
    symbol: str
    constants: Constants = ()
    shared_bytes: int | None = attrs.field(default=None, eq=False)

    def __str__(self) -> str:
        return " ".join([self.symbol, *(f"{name}={value}" for name, value in self.constants)])


@attrs.frozen
class Out:
    """A launch argument that the kernel writes completely; poisoned before the launch where that can be seen."""

    tensor: Tensor


@attrs.frozen
class InOut:
    """A launch argument that the kernel reads and changes, such as an accumulator of atomics."""

    tensor: Tensor


Dim3 = tuple[int, int, int]  # of a grid in blocks, of a block in threads

Argument = Tensor | Out | InOut | Any
"""A tensor is read only; everything else is a typed scalar (`numpy.int32(T)`, `numpy.float32(x)`)."""


class Launcher(Protocol):
    """One place where kernels run."""

    name: str
    most_blocks: int  # that a kernel which walks its work asks for

    def shared_limit(self, like: Tensor) -> int:
        """Bytes of shared memory that a block may have where this tensor lives."""
        ...

    def launch(
        self, kernel: Kernel, grid: Dim3, block: Dim3, arguments: Sequence[Argument], shared_bytes: int = 0
    ) -> None:
        """Run one kernel; outputs are filled on the tensors' current stream when this returns."""
        ...


@attrs.frozen
class Budget:
    """What one entry point may use per architecture; spilled bytes need a reason.

    `shared_bytes` is static and dynamic shared memory of a block together, in any specialisation. More than the card
    gives (`SHARED_LIMITS`) is too much whatever is declared.
    """

    registers: int = 255
    shared_bytes: int = 48 * 1024  # what a block gets without asking for more
    spill_bytes: int = 0
    spill_reason: str = ""


@attrs.frozen
class Tolerance:
    """Largest relative error (by norm, against float64) of outputs and of gradients."""

    forward: float
    backward: float


FLOAT32 = Tolerance(1e-5, 1e-4)
BFLOAT16 = Tolerance(1e-2, 1e-2)


@attrs.frozen(kw_only=True)
class KernelPair:
    """One implementation of one op: source, symbols, limits."""

    op: str
    source: Path
    forward: str
    backward: str
    head_sizes: tuple[int, int] = (16, 256)
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    chunk: int = 64
    budgets: Mapping[str, Budget] = attrs.field(factory=dict)
    tolerance: Mapping[str, Tolerance] = attrs.field(
        factory=lambda: {"float32": FLOAT32, "bfloat16": BFLOAT16},
    )
    deterministic: bool = True  # False: sums by atomics, whose order a schedule may change
    has_tokens: bool = True  # False: the op knows no tokens, so no lengths
    has_state: bool = True  # False: nothing is carried from call to call

    @property
    def symbols(self) -> tuple[str, str]:
        """The entry points, forward first."""
        return self.forward, self.backward

    def missing(self, backend: str) -> str | None:
        """What this machine lacks to run the pair on a backend, in one line; None where nothing is missing."""
        from hecate_kernels.launch import lacking  # opens a driver, which a declaration does not

        return lacking(backend)


Outputs = Mapping[str, Tensor]


@attrs.frozen
class Trial:
    """One numeric case of a pair; gradients are the outputs whose names start with `d_`.

    `run` launches the pair; `truth` gives the same names in float64; `single`, if given, is the float32
    reference: where its own error is larger than the tolerance, three times that error is allowed. A carried state
    and its gradient go by one name, such as `memory` and `d_memory`.
    """

    name: str
    dtype: str
    run: Callable[[Launcher], Outputs]
    truth: Callable[[], Outputs]
    single: Callable[[], Outputs] | None = None
    quick: bool = True  # also for the sanitizers, which are slow: few blocks, few tokens
    length: int = 0  # tokens
    width: int = 0  # head size, of keys
    view: bool = False  # operands do not lie together
    heavy: bool = False  # takes minutes under ThreadSanitizer, which leaves it out


class CheckedPair(Protocol):
    """What the commands need of a pair component."""

    kernels: KernelPair

    def specialisations(self, shared_limit: int) -> Iterable[Kernel]:
        """Every specialisation that has to compile for a card with that much shared memory per block."""
        ...

    def trials(self, thorough: bool) -> Iterable[Trial]:
        """A covering set of cases, or all of them."""
        ...
