"""Checks of a composition: one causal, streaming, honest pass over memory and attention."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from hecate_core.mixer import Mixer
from hecate_core.records import State, positions_of, unflat
from hecate_core.shapes import Tensor
from hecate_core.testing.engine import Check, Failed, Suite, Unasked
from hecate_core.testing.members import CONV, SCHEDULES, WIDTH, Cell, tiny_mixer
from hecate_core.testing.samples import demand_close, demand_same_state, demand_slope, relative, same_bits, unchanged

# A memory made of core's own knobs; any other rule does, a composition must not care.
RULE = {"structure": "matrix", "bias": "l2", "retention": "scalar", "algorithm": "momentum"}
COUNT = 17  # tokens: several chunks, windows and grains
BATCH = 2
EXACT = 1e-9  # float64: the same sums in another order
HALF = 0.1  # bfloat16 keeps 8 bits, through attention, memory and gates


class CompositionCase:
    """A composition in a mixer with memory, window, persistent tokens and convolutions, in float64."""

    def __init__(self, composition: Any, rule: Any) -> None:
        self._cell = Cell(composition, RULE if rule is None else rule, "chunkwise" if rule is None else "sequential")
        self.mixer = self.made()
        self.member: Any = self.mixer.join
        self.late: int = getattr(self.member, "late", 0)
        random = torch.Generator().manual_seed(1)
        self.x = torch.randn(BATCH, COUNT, WIDTH, generator=random, dtype=torch.float64)

    def made(self, schedule: str = "1", *, seed: int = 0) -> Mixer:
        """The mixer anew, under a level schedule, with weights from `seed`."""
        return tiny_mixer(self._cell, SCHEDULES[schedule], seed=seed)

    def longer(self) -> Tensor:
        """The activations once more and on, so that what is heard late is heard."""
        return torch.cat([self.x] * (2 + self.late // COUNT), 1)[:, : COUNT + self.late]

    def run(
        self,
        x: Tensor | None = None,
        state: State | None = None,
        write: Tensor | None = None,
        mixer: Mixer | None = None,
    ) -> tuple[Tensor, State]:
        """One call, from a fresh state unless one is given."""
        mixer, x = mixer or self.mixer, self.x if x is None else x
        y, after = mixer(x, mixer.init_state(x.shape[0]) if state is None else state, write)
        return y.detach(), after.map(torch.Tensor.detach)


COMPOSITION: Suite[CompositionCase] = Suite("composition")


def check_composition(
    composition: Any, *, rule: Any = None, expected: Mapping[str, str] | None = None
) -> Iterator[Check]:
    """Every check of a composition given as a class that takes `width`, a name or a table."""
    name = getattr(composition, "__name__", composition)
    return COMPOSITION.run(str(name), lambda: CompositionCase(composition, rule), expected)


@COMPOSITION.check
def output_is_shaped_like_its_input(case: CompositionCase) -> None:
    """`[B, T, D]` in and out, the same dtype, the position moved on."""
    y, after = case.run()
    if y.shape != case.x.shape or y.dtype != case.x.dtype:
        raise Failed(f"output is {list(y.shape)} {y.dtype}; expected {list(case.x.shape)} {case.x.dtype}")
    if after.position != COUNT:
        raise Failed(f"position is {after.position} after {COUNT} tokens")


@COMPOSITION.check
def is_causal(case: CompositionCase) -> None:
    """Changing token j changes no output before j, bit for bit, and changes its own."""
    for schedule in SCHEDULES:
        mixer = case.made(schedule)
        expected, _ = case.run(mixer=mixer)
        for j in (1, 4, 5, COUNT - 1):
            other = case.x.clone()
            other[:, j] = 1.0 - 3.0 * case.x[:, j]
            y, _ = case.run(other, mixer=mixer)
            if not same_bits(y[:, :j], expected[:, :j]):
                first = int((y != expected).any(-1).any(0).nonzero()[0])
                raise Failed(f"changing token {j} changes the output of token {first} (levels {schedule})")
            if j >= case.late and same_bits(y[:, j], expected[:, j]):
                raise Failed(f"token {j} has no influence on its own output")
        _demand_late(case, mixer, schedule)


def _demand_late(case: CompositionCase, mixer: Mixer, schedule: str) -> None:
    """Of a composition that looks at its memory at borders: nothing is heard before the next one, and then it is.

    Convolutions hear a token sooner: what they reach is left out.
    """
    if not case.late:
        return
    first = _heard(case, mixer, 0)[CONV : case.late]
    if bool(first.any()):
        raise Failed(f"token 0 is heard before token {case.late}, the next border (levels {schedule})")
    if not bool(_heard(case, mixer, case.late - 1)[case.late + CONV :].any()):
        raise Failed(f"token {case.late - 1} is not heard from token {case.late} on (levels {schedule})")


def _heard(case: CompositionCase, mixer: Mixer, j: int) -> Tensor:
    """Which outputs of a longer text change with token j."""
    x = case.longer()
    other = x.clone()
    other[:, j] = 1.0 - 3.0 * x[:, j]
    return (case.run(x, mixer=mixer)[0] != case.run(other, mixer=mixer)[0]).any(-1).any(0)


@COMPOSITION.check
def splits_change_nothing(case: CompositionCase) -> None:
    """However a text is cut, outputs, state and positions are the same to rounding."""
    for schedule in SCHEDULES:
        mixer = case.made(schedule)
        expected, end = case.run(mixer=mixer)
        for sizes in ([9, *[1] * (COUNT - 9)], [3, 0, 6, COUNT - 9]):
            state, outputs = mixer.init_state(BATCH), []
            for part in case.x.split(sizes, 1):
                y, state = case.run(part, state, mixer=mixer)
                outputs.append(y)
            what = f"cut into {', '.join(map(str, sizes[:4]))} (levels {schedule})"
            demand_close(f"{what}: outputs", torch.cat(outputs, 1), expected, EXACT)
            demand_same_state(what, state, end, EXACT)
            if positions_of(state) != positions_of(end):
                raise Failed(f"{what}: positions are {positions_of(state)}; expected {positions_of(end)}")


@COMPOSITION.check
def memory_is_written_once_per_token(case: CompositionCase) -> None:
    """The memory counts every token of a call once, whatever is read before or after."""
    if not case.member.remembers:
        raise Unasked("wants no memory")
    _, after = case.run()
    found = positions_of(after)["memory"]
    if found != COUNT:
        raise Failed(f"the memory counts {found} tokens after {COUNT}")


@COMPOSITION.check
def memory_is_heard(case: CompositionCase) -> None:
    """What was written changes later outputs."""
    if not case.member.remembers:
        raise Unasked("wants no memory")
    state = case.mixer.init_state(BATCH)
    louder = _mapped(state, lambda name, one: one + 1.0 if ".rule.memory" in f".{name}" else one)
    if same_bits(case.run(state=louder)[0], case.run(state=state)[0]):
        raise Failed("another memory gives the same outputs: it is never read")


@COMPOSITION.check
def a_write_mask_reaches_the_memory(case: CompositionCase) -> None:
    """With `write` False the memory rests; where it is True all is as without a mask."""
    if not case.member.remembers:
        raise Unasked("wants no memory")
    _, state = case.run()
    _, rested = case.run(state=state, write=torch.zeros(BATCH, COUNT, dtype=torch.bool))
    for name, one in state.flat().items():
        if name.startswith("memory.") and (".rule.memory" in name or ".rule.momentum" in name):
            demand_close(f"no token may write: {name}", rested.flat()[name], one, EXACT)
    y, after = case.run(state=state)
    z, same = case.run(state=state, write=torch.ones(BATCH, COUNT, dtype=torch.bool))
    demand_close("outputs with a mask that allows everything", z, y, EXACT)
    demand_same_state("with a mask that allows everything", same, after, EXACT)


def _mapped(state: State, function: Any) -> State:
    flat = {name: function(name, one) for name, one in state.flat().items()}
    return unflat(flat, positions_of(state))


@COMPOSITION.check
def no_token_and_one_token(case: CompositionCase) -> None:
    """T = 0 gives no output and the same state; T = 1 is a call like any other."""
    _, state = case.run()
    y, after = case.run(case.x[:, :0], state)
    if y.shape != (BATCH, 0, WIDTH):
        raise Failed(f"T = 0 gives {list(y.shape)}; expected [B, 0, D]")
    demand_same_state("T = 0", after, state)
    y, after = case.run(case.x[:, :1], state)
    if y.shape != (BATCH, 1, WIDTH) or after.position != COUNT + 1:
        raise Failed(f"T = 1 gives {list(y.shape)} at position {after.position}; expected [B, 1, D] at {COUNT + 1}")


@COMPOSITION.check
def changes_nothing_in_place(case: CompositionCase) -> None:
    """Activations, state, parameters and buffers are as they were."""
    _, state = case.run()
    own = {name.replace(".", "_"): one for name, one in case.mixer.state_dict(keep_vars=True).items()}
    with unchanged(x=case.x, state=state, **own):
        case.run(state=state)


@COMPOSITION.check
def same_call_same_bits(case: CompositionCase) -> None:
    """No randomness, nothing kept between calls, and nothing that depends on train() or eval()."""
    y, after = case.run()
    z, again = case.run()
    if not same_bits(y, z):
        raise Failed(f"two equal calls differ by {relative(z, y):.2g}")
    demand_same_state("the same call again", again, after)
    z, _ = case.run(mixer=copy.deepcopy(case.mixer).eval())
    if not same_bits(y, z):
        raise Failed("eval() changes the outputs")


@COMPOSITION.check
def rows_are_independent(case: CompositionCase) -> None:
    """A row does not depend on what other rows hold."""
    other = torch.cat((case.x[:1], -case.x[1:]))
    y, after = case.run()
    z, end = case.run(other)
    if not same_bits(y[0], z[0]):
        raise Failed(f"the output of row 0 changes with row 1 ({relative(z[0], y[0]):.2g})")
    for name, one in after.flat().items():
        if not same_bits(one[0], end.flat()[name][0]):
            raise Failed(f"state.{name} of row 0 changes with row 1")


@COMPOSITION.check
def state_keeps_its_shape(case: CompositionCase) -> None:
    """State has fixed names and sizes, the batch first."""
    first, (_, after) = case.mixer.init_state(3).flat(), case.run(case.x[:1].expand(3, -1, -1))
    for name, one in first.items():
        found = after.flat().get(name)
        if one.shape[:1] != (3,) or found is None or found.shape != one.shape:
            now = "gone" if found is None else str(list(found.shape))
            raise Failed(
                f"state.{name} was {list(one.shape)} for 3 rows, then {now}; expected a fixed size, batch first"
            )
    grown = set(after.flat()) - set(first)
    if grown:
        raise Failed(f"state grew {min(grown)}; everything must be there from the start")


@COMPOSITION.check
def a_saved_state_goes_on(case: CompositionCase) -> None:
    """Saved by dotted names in the middle of a text and restored: the same bits."""
    _, state = case.run(case.x[:, :9])
    stored = {name: one.contiguous().clone() for name, one in state.flat().items()}
    y, after = case.run(case.x[:, 9:], state)
    z, again = case.run(case.x[:, 9:], unflat(stored, positions_of(state)))
    if not same_bits(y, z):
        raise Failed(f"a restored state gives other outputs ({relative(z, y):.2g})")
    demand_same_state("restored", again, after)


@COMPOSITION.check
def weights_go_through_a_state_dict(case: CompositionCase) -> None:
    """All that outputs depend on is in the state dict."""
    other = case.made()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        moved = {name: torch.randn_like(one) for name, one in other.state_dict().items()}
    other.load_state_dict(moved)
    fresh = case.made(seed=1)
    fresh.load_state_dict(moved)
    x = case.longer()
    if not same_bits(case.run(x, mixer=other)[0], case.run(x, mixer=fresh)[0]):
        raise Failed("two mixers with one state dict give different outputs")
    if same_bits(case.run(x, mixer=other)[0], case.run(x)[0]):
        raise Failed("other weights give the same outputs: something stands outside the state dict")


@COMPOSITION.check
def gradient_reaches_every_parameter(case: CompositionCase) -> None:
    """The outer loop can learn everything, and along a random direction the gradient is the true one."""
    named = {name: one for name, one in case.mixer.named_parameters() if one.numel()}
    x = case.longer()
    weighting = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def loss() -> Tensor:
        y: Tensor = case.mixer(x, case.mixer.init_state(BATCH))[0]
        return (y * weighting).sum()

    grads = torch.autograd.grad(loss(), list(named.values()), allow_unused=True)
    for name, grad in zip(named, grads, strict=True):
        if grad is None or not bool((grad != 0).any()):
            raise Failed(f"parameter {name} gets no gradient")
    random = torch.Generator().manual_seed(3)
    directions = [torch.randn(one.shape, generator=random, dtype=one.dtype) for one in named.values()]
    slope = sum(float((grad * one).sum()) for grad, one in zip(grads, directions, strict=True))
    start = {name: one.detach().clone() for name, one in named.items()}

    def moved(step: float) -> float:
        for (name, one), direction in zip(named.items(), directions, strict=True):
            one.data = start[name] + step * direction
        return float(loss().detach())

    try:
        demand_slope("the gradient", slope, moved)
    finally:
        moved(0.0)


@COMPOSITION.check
def bfloat16_stays_near_float64(case: CompositionCase) -> None:
    """Moved to bfloat16 it runs, stays bfloat16 and near the double result."""
    low = copy.deepcopy(case.mixer).to(torch.bfloat16)
    y, _ = case.run(case.x.bfloat16(), mixer=low)
    if y.dtype != torch.bfloat16:
        raise Failed(f"bfloat16 in, {y.dtype} out")
    demand_close("bfloat16 against float64", y.double(), case.run()[0], HALF)


@COMPOSITION.check
def makes_no_tensor_on_another_device(case: CompositionCase) -> None:
    """All is made where the activations lie; run on the meta device, which holds shapes and no numbers."""
    mixer = copy.deepcopy(case.mixer).to("meta")
    try:
        y, state = mixer(case.x.to("meta"), mixer.init_state(BATCH))
    except (RuntimeError, NotImplementedError) as error:
        raise Failed(f"on another device: {error}") from error
    for name, one in {"y": y, **state.flat()}.items():
        if one.device.type != "meta":
            raise Failed(f"{name} lies on {one.device} for activations on another device")


@COMPOSITION.check
def asks_for_what_it_uses(case: CompositionCase) -> None:
    """A composition that wants no attention or memory must not touch it, and one that does must."""
    y, after = case.run()
    for what, wanted in (("attention", case.member.attends), ("memory", case.member.remembers)):
        if (what in after) is not wanted:
            raise Failed(
                f"state {'lacks' if wanted else 'holds'} {what}, which it {'wants' if wanted else 'does not want'}"
            )
    del y
