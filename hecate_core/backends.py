"""Which implementation of an op runs: asked for by name, or `auto`; never swapped in silence.

`auto` takes the kernels of the GPU for CUDA tensors that they can read, and plain torch everywhere else. What it
takes, and why, is a `Choice`: `hecate build` prints it and writes it into the manifest.
"""

import threading
import warnings
from contextlib import suppress
from functools import cache
from typing import Any

import attrs
import torch

from hecate_core.errors import HecateError, InputError, nearest
from hecate_core.ops.affine import REFERENCE as AFFINE
from hecate_core.ops.affine_column import REFERENCE as AFFINE_COLUMN
from hecate_core.ops.decayed_linear import REFERENCE as DECAYED_LINEAR
from hecate_core.ops.operator import bared, operator_of, refusal
from hecate_core.registry import Registry, registry
from hecate_core.shapes import Tensor

REFERENCES: dict[str, Any] = {one.op: one for one in (AFFINE, AFFINE_COLUMN, DECAYED_LINEAR)}
GPU = "nvrtc"  # the backend that `auto` takes where it can
_listening = threading.local()


@attrs.frozen
class Choice:
    """What runs an op: the backend asked for, the one that runs, and why where it was chosen."""

    op: str
    asked: str
    runs: str
    reason: str

    def record(self) -> dict[str, str]:
        """The choice as plain JSON values, for a manifest."""
        return attrs.asdict(self)

    def line(self) -> str:
        """One line for a header."""
        return f"{self.op}: {self.runs} ({self.reason})"


class AutoPair:
    """The op on whatever suits a call's tensors: kernels on a GPU, else plain torch.

    Where a GPU's tensors have to go to plain torch, a warning says why, once.
    """

    backend = "auto"

    def __init__(self, op: str) -> None:
        self.op = op
        self._plain: Any = None
        with suppress(InputError):  # an op of kernels alone: who needs plain torch of it is told so then
            self._plain = pair_for(op, "reference")

    def choice(self, device: torch.device, dtype: torch.dtype, width: int) -> Choice:
        """What runs for tensors of a device and dtype whose heads are `width` wide."""
        reason = self._against(device, dtype, width)
        if reason is None:
            return Choice(self.op, "auto", GPU, torch.cuda.get_device_name(device))
        return Choice(self.op, "auto", "reference", reason)

    def serving(self, device: torch.device, dtype: torch.dtype, width: int) -> Any:
        """The implementation for such tensors, as far as their device, dtype and width decide."""
        heard = _heard_now()
        device = device if heard is None else heard.device
        if device.type != "cuda":
            return self._reference
        chosen = self.choice(device, dtype, width)
        if chosen.runs == GPU:
            return pair_for(self.op, GPU)
        self._say(chosen)
        return self._reference

    def instead(self, chosen: Any, given: tuple[Any, ...]) -> Any:
        """Plain torch where the kernels chosen refuse what their `forward` is to be given; None where they do not."""
        if chosen is self._reference or torch.compiler.is_compiling():  # a trace has sizes that are no numbers
            return None
        why, heard = refusal(chosen, bared(given)), _heard_now()
        if why is not None:
            self._say(Choice(self.op, "auto", "reference", why))
            return self._reference
        if heard is not None:
            self._say(Choice(self.op, "auto", GPU, torch.cuda.get_device_name(heard.device)))
        return None

    def _say(self, choice: Choice) -> None:
        """To the rehearsal that listens; else a warning, once, where a GPU is left out."""
        heard = _heard_now()
        if heard is not None:
            heard.choices[choice] = None
        elif choice.runs != GPU:
            _announce(choice.line())

    @property
    def _reference(self) -> Any:
        """Plain torch; found when this was made, because torch.compile follows no look into the registry."""
        return pair_for(self.op, "reference") if self._plain is None else self._plain

    def forward(self, *given: Any) -> Any:
        """The forward of the implementation that the first tensor asks for."""
        return self._for(given).forward(*given)

    def backward(self, *given: Any) -> Any:
        """The backward of the same implementation: gradients stand on the device and in the dtype of the forward."""
        return self._for(given).backward(*given)

    def _for(self, given: tuple[Any, ...]) -> Any:
        like = next(_tensors(given))
        return self.serving(like.device, like.dtype, like.shape[-1])

    def _against(self, device: torch.device, dtype: torch.dtype, width: int) -> str | None:
        """Why kernels cannot serve, or None."""
        if device.type != "cuda":
            return f"kernels of auto run on CUDA tensors, these are on {device.type}"
        name = _offered(registry())[0].get((self.op, GPU))
        if name is None:
            return "no kernel pair is registered for a GPU"
        pair = registry().look("pair", name)()
        if missing := _missing(pair):
            return missing
        kernels = pair.kernels
        element = str(dtype).removeprefix("torch.")
        if element not in kernels.dtypes:
            return f"its kernels take {' or '.join(kernels.dtypes)}, not {element}"
        if width > kernels.head_sizes[1]:
            return f"its kernels take heads up to {kernels.head_sizes[1]} wide, not {width}"
        return None


def pair_for(op: str, backend: str = "auto") -> Any:
    """The implementation of an op on a backend: "reference" is plain torch on any device, "auto" see `AutoPair`.

    Kernel pairs come behind torch operators (`hecate_core.ops.operator`). Raises InputError with what is registered
    for the op where the backend has no implementation, and in one line where the backend cannot run here.
    """
    if backend == "auto":
        return AutoPair(op)
    if backend == "reference" and op in REFERENCES:
        return REFERENCES[op]
    offered, broken = _offered(registry())
    if (op, backend) not in offered:
        known = {"auto", "reference", *(name for one, name in offered if one == op)}
        more = f" (without {broken[0]})" if broken else ""
        raise InputError(f'backend "{backend}" has no kernel pair for op "{op}"{nearest(backend, known)}{more}')
    pair = registry().create("pair", offered[op, backend])
    if backend == "reference":
        return pair
    missing = _missing(pair)
    if missing:
        raise InputError(missing)
    return operator_of(pair)


def choices(model: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> list[Choice]:
    """What runs the ops of a model's memories on a device, in the dtype it computes in; each choice once.

    Where kernels come into question every memory goes through a call without numbers, so that what is found holds for
    its sizes. Raises CompositionError where kernels that were asked for do not take them.
    """
    found: dict[Choice, None] = {}
    for module in model.modules():
        pairs = getattr(module, "pairs", ())
        heard = _rehearsed(module, device, dtype) if any(_may_refuse(one, device) for one in pairs) else []
        for pair in pairs:
            if isinstance(pair, AutoPair):
                own = [one for one in heard if one.op == pair.op]
                found |= dict.fromkeys(own or [pair.choice(device, dtype, getattr(module, "head_size", 0))])
            else:
                found[Choice(pair.op, pair.backend, pair.backend, "asked for")] = None
    return list(found)


def _may_refuse(pair: Any, device: torch.device) -> bool:
    return device.type == "cuda" if isinstance(pair, AutoPair) else pair.backend != "reference"


@attrs.frozen
class _Heard:
    """What `auto` chose while a memory rehearsed as if on a device."""

    device: torch.device
    choices: dict[Choice, None] = attrs.field(factory=dict)


def _rehearsed(module: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> list[Choice]:
    """What `auto` chooses in a call without numbers, and says to nobody else; nothing where a module has none."""
    rehearse = getattr(module, "rehearse", None)
    if rehearse is None:
        return []
    _listening.heard = heard = _Heard(device)
    try:
        rehearse(dtype)
    finally:
        _listening.heard = None
    return list({(one.op, one.runs): one for one in reversed(heard.choices)}.values())[::-1]  # the first reason says it


def _heard_now() -> _Heard | None:
    """The rehearsal that listens in this thread; a trace of torch.compile is none."""
    return None if torch.compiler.is_compiling() else getattr(_listening, "heard", None)


def automatic(device: torch.device) -> Choice:
    """What `auto` takes on a device for tensors that every kernel reads: for an examination of a machine."""
    return AutoPair("affine").choice(device, torch.float32, 1)


@cache
def _offered(known: Registry) -> tuple[dict[tuple[str, str], str], list[str]]:
    """Component names by op and backend, and a line for each pair that cannot be made.

    Raises InputError where two pairs claim one op and backend.
    """
    found: dict[tuple[str, str], str] = {}
    broken: list[str] = []
    for name in known.names("pair"):
        try:
            pair = known.look("pair", name)()
        except HecateError as error:
            broken.append(str(error))
            continue
        key = (pair.op, pair.backend)
        if key in found:
            raise InputError(
                f'op "{pair.op}" on backend "{pair.backend}" is offered by the pairs "{found[key]}" and "{name}"; '
                "disable one of their plugins"
            )
        found[key] = name
    return found, broken


def _missing(pair: Any) -> str | None:
    """What a pair's backend lacks on this machine, where its declaration can say so."""
    ask = getattr(getattr(pair, "kernels", None), "missing", None)
    missing: str | None = None if ask is None else ask(pair.backend)
    return missing


@cache
def _announce(line: str) -> None:
    warnings.warn(f"backend auto, op {line}", RuntimeWarning, stacklevel=5)


def _tensors(given: Any) -> Any:
    for one in given:
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, tuple):
            yield from _tensors(one)
