"""Faults planted into the architecture, one at a time, beside the name of the check that must tell it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F

from hecate_core import (
    attention,
    building,
    convolution,
    front,
    gate_head,
    layer,
    levels,
    mixer,
    model,
    optimizers,
    stream,
)
from hecate_core.records import State
from hecate_core.shapes import Tensor

Plant = Callable[[pytest.MonkeyPatch], None]


class Fault(NamedTuple):
    """The check that finds it, and how it is planted."""

    told_by: str
    plant: Plant


FAULTS: dict[str, Fault] = {}


def planted(told_by: str) -> Callable[[Plant], Plant]:
    """Add a fault under the name of its function."""

    def add(plant: Plant) -> Plant:
        FAULTS[plant.__name__] = Fault(told_by, plant)
        return plant

    return add


def wrapped(patch: pytest.MonkeyPatch, owner: Any, name: str, make: Callable[[Callable[..., Any]], Any]) -> None:
    """Replace a method by one made of it."""
    patch.setattr(owner, name, make(getattr(owner, name)))


@planted("splits-change-nothing")
def convolution_forgets_its_tail(patch: pytest.MonkeyPatch) -> None:
    def make(forward: Any) -> Any:
        def faulty(self: Any, x: Tensor, state: State) -> Any:
            z, after = forward(self, x, state)
            return z, after.replace(tail=torch.zeros_like(after.tail))

        return faulty

    wrapped(patch, convolution.CausalConv, "forward", make)


@planted("is-causal")
def convolution_sees_one_token_ahead(patch: pytest.MonkeyPatch) -> None:
    def make(forward: Any) -> Any:
        def faulty(self: Any, x: Tensor, state: State) -> Any:
            z, after = forward(self, x, state)
            return torch.cat((z[:, 1:], z[:, -1:]), 1), after

        return faulty

    wrapped(patch, convolution.CausalConv, "forward", make)


@planted("is-causal")
def window_that_begins_one_token_late(patch: pytest.MonkeyPatch) -> None:
    def make(mask: Any) -> Any:
        def faulty(*given: Any, **more: Any) -> Tensor:
            allowed: Tensor = mask(*given, **more)
            return allowed | allowed.roll(1, -1)

        return faulty

    wrapped(patch, attention, "_window_mask", make)


@planted("splits-change-nothing")
def rotary_positions_that_restart_at_each_call(patch: pytest.MonkeyPatch) -> None:
    wrapped(patch, attention, "_rotated", lambda rotated: lambda x, position: rotated(x, 0))


@planted("gradient-reaches-every-parameter")
def persistent_tokens_that_nobody_learns(patch: pytest.MonkeyPatch) -> None:
    def make(attend: Any) -> Any:
        def faulty(self: Any, *given: Any) -> Tensor:
            kept = self.persistent
            self._parameters["persistent"] = torch.nn.Parameter(kept.detach().clone())
            try:
                seen: Tensor = attend(self, *given)
            finally:
                self._parameters["persistent"] = kept
            return seen

        return faulty

    wrapped(patch, attention.SlidingWindowAttention, "_attend", make)


@planted("levels-follow-their-schedule")
def resting_levels_write(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(layer, "due_runs", lambda position, length, period, grain: [(0, length, True)] if length else [])


@planted("levels-follow-their-schedule")
def a_level_that_never_writes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(layer, "due_runs", lambda position, length, period, grain: [(0, length, False)] if length else [])


@planted("levels-follow-their-schedule")
def resets_that_do_not_come(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(layer, "reset_offsets", lambda *given: [])


@planted("splits-change-nothing")
def a_clock_that_counts_calls(patch: pytest.MonkeyPatch) -> None:
    runs = levels.due_runs
    patch.setattr(layer, "due_runs", lambda position, length, period, grain: runs(0, length, period, grain))


@planted("gradient-reaches-every-parameter")
def gates_cut_from_the_graph(patch: pytest.MonkeyPatch) -> None:
    def make(forward: Any) -> Any:
        return lambda self, x: forward(self, x).map(torch.Tensor.detach)

    wrapped(patch, gate_head.GateHead, "forward", make)


@planted("gradient-reaches-every-parameter")
def a_frozen_head(patch: pytest.MonkeyPatch) -> None:
    def make(init: Any) -> Any:
        def faulty(self: Any, **given: Any) -> None:
            init(self, **given)
            self.head.weight.requires_grad_(False)

        return faulty

    wrapped(patch, model.LanguageModel, "__init__", make)


@planted("memory-is-heard")
def a_write_mask_that_is_lost(patch: pytest.MonkeyPatch) -> None:
    def make(forward: Any) -> Any:
        return lambda self, x, state, write=None: forward(self, x, state, None)

    wrapped(patch, mixer.Mixer, "forward", make)


@planted("rows-are-independent")
def a_norm_over_the_batch(patch: pytest.MonkeyPatch) -> None:
    def make(normed: Any) -> Any:
        def faulty(self: Any, x: Tensor) -> Tensor:
            y: Tensor = normed(self, x)
            return y - y.mean(0, keepdim=True)

        return faulty

    wrapped(patch, model.Block, "_normed", make)


@planted("is-causal")
def a_channel_that_mixes_tokens(patch: pytest.MonkeyPatch) -> None:
    def make(transform: Any) -> Any:
        def faulty(self: Any, x: Tensor, y: Tensor) -> Tensor:
            out: Tensor = transform(self, x, y)
            return out + 0.01 * out.mean(1, keepdim=True)

        return faulty

    wrapped(patch, model.Block, "_transform", make)


@planted("logits-are-finite-and-counted")
def a_model_that_does_not_count(patch: pytest.MonkeyPatch) -> None:
    def make(forward: Any) -> Any:
        def faulty(self: Any, *given: Any) -> Any:
            logits, after = forward(self, *given)
            return logits, after.replace(position=0)

        return faulty

    wrapped(patch, model.LanguageModel, "forward", make)


@planted("logits-are-finite-and-counted")
def a_level_that_does_not_count(patch: pytest.MonkeyPatch) -> None:
    def make(forward: Any) -> Any:
        def faulty(self: Any, x: Tensor, state: State) -> Any:
            tokens, after = forward(self, x, state)
            return tokens, after.replace(position=state.position)

        return faulty

    wrapped(patch, front.Front, "forward", make)


@planted("forward-changes-nothing-in-place")
def a_state_written_in_place(patch: pytest.MonkeyPatch) -> None:
    def make(spread: Any) -> Any:
        def faulty(self: Any, inputs: Any, gates: Any, state: State, *more: Any) -> Any:
            y, after = spread(self, inputs, gates, state, *more)
            if state.position:
                for old, new in zip(state.memory.values(), after.memory.values(), strict=True):
                    old.detach().copy_(new.detach())
            return y, after

        return faulty

    wrapped(patch, layer.LevelMemory, "_spread", make)


@planted("same-call-same-bits")
def dropout_while_learning(patch: pytest.MonkeyPatch) -> None:
    def make(logits: Any) -> Any:
        return lambda self, x: logits(self, 2.0 * x if self.training else x)

    wrapped(patch, model.LanguageModel, "_logits", make)
    patch.setitem(model.NORMS, "rms", lambda width: torch.nn.Identity())


@planted("leaves-torch-settings-alone")
def global_random_numbers(patch: pytest.MonkeyPatch) -> None:
    def make(embed: Any) -> Any:
        return lambda self, ids: embed(self, ids) + 0.0 * torch.rand(1)

    wrapped(patch, model.LanguageModel, "_embed", make)


@planted("state-keeps-shape-and-precision")
def a_memory_in_half_precision(patch: pytest.MonkeyPatch) -> None:
    def make(init: Any) -> Any:
        def faulty(self: Any, batch: int) -> State:
            state: State = init(self, batch)
            dtype = self.front.project.weight.dtype
            return state.replace(rule=state.rule.map(lambda one: one.to(dtype)))

        return faulty

    wrapped(patch, layer.LevelMemory, "init_state", make)


@planted("logits-are-finite-and-counted")
def a_division_by_zero(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(front, "unit", lambda x: x / (x.sum(-1, keepdim=True) - x.sum(-1, keepdim=True)))


@planted("updates-follow-their-schedule")
def resting_levels_updated(patch: pytest.MonkeyPatch) -> None:
    def make(step: Any) -> Any:
        def faulty(self: Any, grads: Any, pulse: Any, lr: Any = None) -> None:
            step(self, grads, type(pulse)(pulse.step, tuple(True for _ in pulse.update)), lr)

        return faulty

    wrapped(patch, optimizers.LevelOptimizer, "step", make)


@planted("updates-follow-their-schedule")
def a_slow_level_that_never_updates(patch: pytest.MonkeyPatch) -> None:
    def make(update: Any) -> Any:
        def faulty(self: Any, name: str, *given: Any) -> None:
            if self.level_of[name] != 1:
                update(self, name, *given)

        return faulty

    wrapped(patch, optimizers.AdamW, "_update", make)


@planted("resumed-step-equals-the-unbroken-one")
def a_checkpoint_without_the_memory(patch: pytest.MonkeyPatch) -> None:
    def make(restore: Any) -> Any:
        def faulty(self: Any, parts: Any, meta: Any) -> None:
            fresh = self.state
            restore(self, parts, meta)
            self.state = fresh

        return faulty

    wrapped(patch, building.Build, "restore", make)


@planted("resumed-step-equals-the-unbroken-one")
def a_checkpoint_without_the_cursor(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(stream.ContextStream, "restore", lambda self, cursor, pulse_id: None)


@planted("resumed-step-equals-the-unbroken-one")
def moments_that_are_not_restored(patch: pytest.MonkeyPatch) -> None:
    def make(load: Any) -> Any:
        def faulty(self: Any, tensors: Any, counters: Any) -> None:
            load(self, {name: torch.zeros_like(one) for name, one in tensors.items()}, counters)

        return faulty

    wrapped(patch, optimizers.LevelOptimizer, "load_state_dict", make)


@planted("one-outer-step")
def a_loss_cut_from_the_graph(patch: pytest.MonkeyPatch) -> None:
    def cut(logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits.detach().flatten(0, 1), targets.flatten())

    patch.setattr(building, "next_token_loss", cut)


@planted("two-builds-are-one")
def weights_from_the_clock(patch: pytest.MonkeyPatch) -> None:
    seeds = iter(range(10**6))

    def make(init: Any) -> Any:
        def faulty(self: Any, **given: Any) -> None:
            init(self, **given)
            draw = torch.Generator().manual_seed(next(seeds))
            self.head.weight.data.add_(  # hecate: allow PT-04 -- the fault that the check must find
                torch.randn(self.head.weight.shape, generator=draw)
            )

        return faulty

    wrapped(patch, model.LanguageModel, "__init__", make)
