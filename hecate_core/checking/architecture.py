"""Checks of a whole model: laws that no part can keep or break alone, at a tiny size in float64."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any, cast

import attrs
import torch

from hecate_core.building import Build
from hecate_core.checking.cells import tiny_corpus
from hecate_core.config import Config, Level
from hecate_core.levels import LevelSpec, due_runs, reset_offsets
from hecate_core.model import Block, LanguageModel, next_token_loss
from hecate_core.observing import chains_of, observe, with_leaves
from hecate_core.optimizers import level_of_parameters
from hecate_core.records import State, positions_of, unflat
from hecate_core.shapes import Tensor
from hecate_core.testing.engine import Failed, Suite, Unasked
from hecate_core.testing.samples import demand_close, demand_same_state, same_bits, unchanged

BATCH, COUNT = 2, 24  # tokens: whole windows of 1, 2 and 3, several chunks
LONGER = (COUNT, 4 * COUNT, 16 * COUNT)  # tokens
EXACT = 1e-9  # float64: the same sums in another order
NOTHING = 1e-12  # float64: a product with exactly 1


class ModelCase:
    """The model of a tiny config, its parameters moved off their start so that everything has an influence.

    Where a config keeps its memory from writing, as the twin of one that writes, that one is examined: what never
    writes is heard of by nobody, on purpose.
    """

    member = None

    def __init__(self, config: Config) -> None:
        config = self.config = _writing(config)
        self.build = Build(config, tiny_corpus(config.model.vocab))
        self.model: LanguageModel = copy.deepcopy(self.build.model).double()
        random = torch.Generator().manual_seed(1)
        for one in self.model.parameters():
            one.data.add_(0.1 * torch.randn(one.shape, generator=random, dtype=torch.float64))
        self.ids = torch.randint(0, config.model.vocab, (BATCH, COUNT), generator=random)
        self.join: Any = cast(Block, self.model.blocks[0]).mixer.join
        self.causal: bool = getattr(self.join, "causal", True)

    def run(
        self, ids: Tensor | None = None, state: State | None = None, write: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Logits and state of one call, without gradients."""
        ids = self.ids if ids is None else ids
        logits, after = self.model(ids, self.model.init_state(len(ids)) if state is None else state, write)
        return logits.detach(), after.map(torch.Tensor.detach)

    def longer(self, count: int) -> Tensor:
        """The ids and more behind them, `count` tokens in all."""
        random, vocab = torch.Generator().manual_seed(2), self.config.model.vocab
        return torch.cat((self.ids, torch.randint(0, vocab, (BATCH, count - COUNT), generator=random)), 1)

    def levels(self) -> Iterator[tuple[str, LevelSpec, int]]:
        """Where each memory level keeps its state, its periods and its grain."""
        memory = self.config.model.memory
        if memory is None or not self.join.remembers:
            raise Unasked("no memory")
        for block in range(self.config.model.depth):
            for index, level in enumerate(memory.levels):
                yield f"block{block}.memory.level{index}", _spec(level), memory.grain or memory.chunk


def _writing(config: Config) -> Config:
    memory = config.model.memory
    if memory is None:
        return config
    return attrs.evolve(config, model=attrs.evolve(config.model, memory=attrs.evolve(memory, writes=True)))


def _spec(level: Level) -> LevelSpec:
    return LevelSpec(level.write_period, level.update_period, level.reset_period, frequency=level.frequency)


ARCHITECTURE: Suite[ModelCase] = Suite("architecture")


@ARCHITECTURE.check
def logits_are_finite_and_counted(case: ModelCase) -> None:
    """Logits `[B, T, vocab]`, finite, and a state that counts the tokens."""
    logits, after = case.run()
    if list(logits.shape) != [BATCH, COUNT, case.config.model.vocab]:
        raise Failed(f"logits are {list(logits.shape)}; expected [B, T, vocab]")
    if not bool(torch.isfinite(logits).all()):
        raise Failed("logits are not finite")
    wrong = {name: at for name, at in positions_of(after).items() if at != COUNT}
    if after.position != COUNT:
        raise Failed(f"the model counts {after.position} tokens after {COUNT}")
    idle = {name for name in wrong if not _counts_tokens(name)}
    if set(wrong) - idle:
        name = min(set(wrong) - idle)
        raise Failed(f"{name} counts {wrong[name]} tokens after {COUNT}")


def _counts_tokens(name: str) -> bool:
    """Whether a part of the state sees every token: a level's rule sees those that are due alone."""
    tail = name.split(".")
    return tail[-1] in ("memory", "front") and not {"rule", "start"} & set(tail)


@ARCHITECTURE.check
def is_causal(case: ModelCase) -> None:
    """Changing token j changes no logits before j, bit for bit."""
    if not case.causal:
        raise Unasked("the composition says that it is not causal")
    expected, _ = case.run()
    for j in (1, 4, 5, 13, COUNT - 1):
        other = case.ids.clone()
        other[:, j] = (other[:, j] + 1) % case.config.model.vocab
        logits, _ = case.run(other)
        if not same_bits(logits[:, :j], expected[:, :j]):
            first = int((logits != expected).any(-1).any(0).nonzero()[0])
            raise Failed(f"changing token {j} changes the logits of token {first}")
        if same_bits(logits[:, j], expected[:, j]):
            raise Failed(f"token {j} has no influence on its own logits")


@ARCHITECTURE.check
def splits_change_nothing(case: ModelCase) -> None:
    """However a text is cut, logits, state and positions are the same: what decoding rests on."""
    if not case.causal:
        raise Unasked("the composition says that it is not causal")
    expected, end = case.run()
    for sizes in ([13, *[1] * (COUNT - 13)], [3, 0, 10, COUNT - 13]):
        state, parts = case.model.init_state(BATCH), []
        for part in case.ids.split(sizes, 1):
            logits, state = case.run(part, state)
            parts.append(logits)
        what = f"cut into {', '.join(map(str, sizes[:4]))}"
        demand_close(f"{what}: logits", torch.cat(parts, 1), expected, EXACT)
        demand_same_state(what, state, end, EXACT)
        if positions_of(state) != positions_of(end):
            raise Failed(f"{what}: positions differ")


@ARCHITECTURE.check
def rows_are_independent(case: ModelCase) -> None:
    """A row does not depend on what other rows hold, and eval() or a second call change no bit."""
    other = torch.cat((case.ids[:1], case.ids[1:].flip(1)))
    expected, _ = case.run()
    if not same_bits(case.run(other)[0][0], expected[0]):
        raise Failed("the logits of row 0 change with row 1")


@ARCHITECTURE.check
def same_call_same_bits(case: ModelCase) -> None:
    """Nothing random, nothing kept between calls, nothing that depends on train() or eval()."""
    expected, end = case.run()
    logits, again = case.run()
    if not same_bits(logits, expected):
        raise Failed("two equal calls give different logits")
    demand_same_state("the same call again", again, end)
    twin = copy.deepcopy(case.model).eval()
    if not same_bits(twin(case.ids, twin.init_state(BATCH))[0].detach(), expected):
        raise Failed("eval() changes the logits")


@ARCHITECTURE.check
def forward_changes_nothing_in_place(case: ModelCase) -> None:
    """Parameters, buffers, ids and the state that came in are as they were."""
    _, state = case.run()
    own = {name.replace(".", "_"): one for name, one in case.model.state_dict(keep_vars=True).items()}
    with unchanged(ids=case.ids, state=state, **own):
        case.run(state=state)


@ARCHITECTURE.check
def state_keeps_shape_and_precision(case: ModelCase) -> None:
    """Names, shapes and dtypes of the state are fixed; a memory is float32 or wider in any model dtype."""
    for dtype in (torch.float64, torch.bfloat16):
        model = copy.deepcopy(case.model).to(dtype)
        first = model.init_state(BATCH)
        _, after = model(case.ids, first)
        _, later = model(case.ids, after)
        demand_same_state(f"in {dtype}", _blank(later), _blank(first))
        for name, one in later.flat().items():
            kept = (
                ".rule." in name and one.is_floating_point()
            )  # a rule's marks, such as written or not, have no digits
            if kept and one.dtype not in (torch.float32, torch.float64):
                raise Failed(f"in {dtype} the memory {name} is {one.dtype}; expected float32 or wider")


@ARCHITECTURE.check
def state_is_no_parameter(case: ModelCase) -> None:
    """What is carried on shares no storage with a parameter: an outer step in place would move it unseen."""
    own = {one.untyped_storage().data_ptr(): name for name, one in case.model.named_parameters() if one.numel()}
    first = case.model.init_state(1)
    states = [("the first state", first)]
    if case.causal:
        states += [(f"after {count} tokens", case.run(case.ids[:1, :count], first)[1]) for count in (1, 5, COUNT)]
    for when, state in states:
        for path, one in state.flat().items():
            if one.numel() and one.untyped_storage().data_ptr() in own:
                raise Failed(f"{when}: state.{path} is stored in {own[one.untyped_storage().data_ptr()]}; copy it")


def _blank(state: State) -> State:
    flat = {name: torch.zeros_like(one) for name, one in state.flat().items()}
    return unflat(flat, dict.fromkeys(positions_of(state), 0))


@ARCHITECTURE.check
def gradient_reaches_every_parameter(case: ModelCase) -> None:
    """All parameters ask for a gradient, get one in a fresh context, and the optimizer holds all of them.

    What is read late, as behind a long chunk, is looked for in longer texts; what decides about steps of a level that
    learns as it reads, behind a text that it learned from.
    """
    named: Mapping[str, Tensor] = {name: one for name, one in case.model.named_parameters() if one.numel()}
    for name, one in named.items():
        if not one.requires_grad:
            raise Failed(f"parameter {name} asks for no gradient")
        if name not in case.build.optimizer.parameters:
            raise Failed(f"parameter {name} is not given to the optimizer")
    for count in LONGER:
        named = _unreached(case, named, count)
        if not named:
            return
    for count in LONGER if any(chain.finest() for chain in chains_of(case.model).values()) else ():
        ids = case.longer(count)
        state = observe(case.model, ids, ids.roll(-1, 1), case.model.init_state(BATCH)).state
        named = _unreached(case, named, COUNT, state)
        if not named:
            return
    raise Failed(f"parameter {next(iter(named))} gets no gradient in {LONGER[-1]} tokens")


def _unreached(
    case: ModelCase, named: Mapping[str, Tensor], count: int, state: State | None = None
) -> dict[str, Tensor]:
    """Those of the parameters that a text of `count` tokens gives no gradient; Failed for one that is not finite."""
    ids = case.longer(count)
    loss = next_token_loss(
        case.model(ids, case.model.init_state(BATCH) if state is None else state)[0], ids.roll(-1, 1)
    )
    grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    left: dict[str, Tensor] = {}
    for (name, one), grad in zip(named.items(), grads, strict=True):
        if grad is None or not bool((grad != 0).any()):
            left[name] = one
        elif not bool(torch.isfinite(grad).all()):
            raise Failed(f"the gradient of {name} is not finite")
    return left


@ARCHITECTURE.check
def memory_is_heard(case: ModelCase) -> None:
    """With the memory kept from writing the logits are others, in longer texts where it is read late."""
    list(case.levels())
    state = case.run()[1] if case.causal else None
    for count in LONGER:
        ids = case.longer(count)
        resting = case.run(ids, state, torch.zeros(BATCH, count, dtype=torch.bool))[0]
        if not same_bits(resting, case.run(ids, state)[0]):
            return
    raise Failed("writing changes no logits: the memory is not read, or the write mask is lost")


@ARCHITECTURE.check
def levels_follow_their_schedule(case: ModelCase) -> None:
    """Token by token a level's memory changes where it is due and nowhere else, and resets open a fresh one."""
    if not case.causal:
        raise Unasked("the composition says that it is not causal")
    levels = list(case.levels())
    state = fresh = case.model.init_state(BATCH)
    for t in range(COUNT):
        _, after = case.run(case.ids[:, t : t + 1], state)
        for place, spec, grain in levels:
            ((_, _, due),) = due_runs(t, 1, spec.write_period, grain)
            begins = t in reset_offsets(0, COUNT, spec.reset_period, grain)
            before = (fresh if begins else state).at(place).rule
            moved = not _same(_memory(after.at(place).rule), _memory(before))
            if moved and not due:
                raise Failed(f"{place} is resting at token {t} and its memory changes")
            if due and not moved and spec.frequency == "fixed":
                raise Failed(f"{place} is due at token {t} and writes nothing")
            if begins and after.at(place).rule.position != int(due):
                raise Failed(f"{place} should begin anew at token {t}; its rule counts {after.at(place).rule.position}")
        state = after


def _memory(state: State) -> State:
    """What a rule calls its memory, a record or one tensor; its whole state where it calls nothing so."""
    memory = state.get("memory")
    return memory if isinstance(memory, State) else state if memory is None else State(memory=memory)


def _same(one: State, two: State) -> bool:
    return all(same_bits(tensor, two.flat()[name]) for name, tensor in one.flat().items())


@ARCHITECTURE.check
def what_learns_as_it_reads_learns_from_judged_text_alone(case: ModelCase) -> None:
    """Reading moves no weight of a FAST level, judging does, and cut where a clock strikes the same is learned."""
    ticks = [one.finest() for one in chains_of(case.model).values() if one.finest()]
    if not ticks:
        raise Unasked("no level learns as it reads")
    start, targets = case.model.init_state(BATCH), case.ids.roll(-1, 1)
    leaves = set(with_leaves(start)[1])
    changed = [path for path, one in case.run()[1].flat().items() if path in leaves and bool((one != 0).any())]
    if changed:
        raise Failed(f"{changed[0]} moves although nothing was judged")
    whole = observe(case.model, case.ids, targets, start)
    tick, state = max(ticks), start
    for ids, judged in zip(case.ids.split(tick, 1), targets.split(tick, 1), strict=True):
        state = observe(case.model, ids, judged, state).state
    demand_same_state(f"cut every {tick} tokens", state, whole.state, EXACT)
    heard = [path for path, one in whole.state.flat().items() if ".channel." in path and bool((one != 0).any())]
    if not heard:
        raise Failed(f"{COUNT} judged tokens leave no trace in any FAST level")


@ARCHITECTURE.check
def updates_follow_their_schedule(case: ModelCase) -> None:
    """An outer step moves the parameters that are due at its pulse and nothing else."""
    config = attrs.evolve(case.config, run=attrs.evolve(case.config.run, accumulate=1))
    build = Build(config, tiny_corpus(config.model.vocab))
    owner = {name: level for name, level in level_of_parameters(build.model).items() if level is not None}
    for _ in range(3):
        pulse = build.conductor.pulse()
        before = {name: one.detach().clone() for name, one in build.model.named_parameters()}
        build.step()
        moved = {name for name, one in build.model.named_parameters() if not torch.equal(one, before[name])}
        resting = {name for name, level in owner.items() if not pulse.update[level]}
        if moved & resting:
            raise Failed(f"step {pulse.step}: {min(moved & resting)} moves while its level rests")
        for level, due in enumerate(pulse.update):
            names = {name for name, one in owner.items() if one == level}
            if due and names and not names & moved:
                raise Failed(f"step {pulse.step}: level {level} is due and none of its parameters move")
        outside = {name for name in before if name not in owner}
        if not outside & moved:
            raise Failed(f"step {pulse.step}: no parameter outside the levels moves")


@ARCHITECTURE.check
def two_builds_are_one(case: ModelCase) -> None:
    """The same config gives the same losses, bit for bit."""
    losses = []
    for _ in range(2):
        build = Build(case.config, tiny_corpus(case.config.model.vocab))
        losses.append([build.step()["loss"] for _ in range(2)])
    if losses[0] != losses[1]:
        raise Failed(f"losses are {losses[0]} and then {losses[1]} from one config")
