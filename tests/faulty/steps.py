"""Rules whose step breaks a law."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast

import torch

from hecate_core.api import L2, ComposedRule, Gate, Matrix, Momentum, Rates, ScalarDecay, State, Tensor, Tokens
from hecate_core.forms import Refused
from hecate_core.testing import check_rule

from .planting import composed, planted


class _Step(ComposedRule):
    """A rule whose step is changed by a subclass; it offers nothing, so the step alone is judged."""

    def offers(self, form: Any) -> Any:
        return Refused("its step is not that of its knobs")


@planted("retain-one-keeps-everything", check_rule)
def reversed_retain() -> ComposedRule:
    class Retention(ScalarDecay):
        def keep(self, tokens: Tokens) -> Tensor:
            return 1.0 - cast(Tensor, tokens.retain)

    return composed(retention=Retention())


@planted("step-changes-nothing-in-place", check_rule)
def write_in_place() -> ComposedRule:
    class Rule(_Step):
        def step(self, params: Any, state: State, token: Tokens) -> Any:
            y, after = super().step(params, state, token)
            if state.position:
                state.memory.matrix.mul_(0.5)  # hecate: allow CS-47 -- the fault that the kit must find
            return y, after

    return composed(Rule)


@planted("rows-are-independent", check_rule)
def state_shared_between_rows() -> ComposedRule:
    class Rule(_Step):
        def step(self, params: Any, state: State, token: Tokens) -> Any:
            _, after = super().step(params, state, token)
            shared = after.memory.map(lambda one: one.mean(0, keepdim=True).expand_as(one))
            return self.read(params, after.replace(memory=shared), token.q.unsqueeze(2)).squeeze(2), after.replace(
                memory=shared
            )

    return composed(Rule)


@planted("read-comes-after-the-write", check_rule)
def read_before_the_write() -> ComposedRule:
    class Rule(_Step):
        def step(self, params: Any, state: State, token: Tokens) -> Any:
            _, after = super().step(params, state, token)
            return self.read(params, state, token.q.unsqueeze(2)).squeeze(2), after

    return composed(Rule)


@planted("gates-stay-in-their-range", check_rule)
def gate_that_leaves_its_range() -> ComposedRule:
    class Leaky(Gate):
        def used(self, raw: Tensor) -> Tensor:
            return self.low + (self.high - self.low) * (0.5 + 0.25 * raw)

    class Retention(ScalarDecay):
        gates: Mapping[str, Gate] = MappingProxyType({"retain": Leaky(0.0, 0.9999, init=0.98)})

    return composed(retention=Retention())


@planted("gates-stay-in-their-range", check_rule)
def gate_that_swallows_nan() -> ComposedRule:
    class Deaf(Gate):
        def used(self, raw: Tensor) -> Tensor:
            return super().used(torch.nan_to_num(raw))

    class Retention(ScalarDecay):
        gates: Mapping[str, Gate] = MappingProxyType({"retain": Deaf(0.0, 0.9999, init=0.98)})

    return composed(retention=Retention())


@planted("every-input-and-gate-has-influence", check_rule)
def gate_that_nobody_uses() -> ComposedRule:
    class Algorithm(Momentum):
        def rates(self, tokens: Tokens) -> Rates:
            return Rates(tokens.write, momentum=torch.full_like(tokens.momentum, 0.9))

    return composed(algorithm=Algorithm())


@planted("is-deterministic", check_rule)
def noise_in_the_step() -> ComposedRule:
    class Rule(_Step):
        def step(self, params: Any, state: State, token: Tokens) -> Any:
            y, after = super().step(params, state, token)
            return y, after.replace(memory=after.memory.map(lambda one: one + 1e-6 * torch.rand_like(one)))

    return composed(Rule)


@planted("leaves-torch-settings-alone", check_rule)
def default_dtype_changed() -> ComposedRule:
    class Rule(ComposedRule):
        def read(self, params: Any, state: State, q: Tensor) -> Tensor:
            torch.set_default_dtype(torch.float64)
            return super().read(params, state, q)

    return composed(Rule)


@planted("runs-where-nothing-is-differentiated", check_rule)
def inner_gradient_by_autograd() -> ComposedRule:
    class Structure(Matrix):
        def pullback(self, params: Any, weights: Any, trace: Any, d: Tensor) -> Any:
            z = torch.zeros_like(d).requires_grad_()
            return {"matrix": torch.autograd.grad((z * d).sum(), z, create_graph=True)[0]}

    return composed(structure=Structure())


@planted("makes-no-tensor-on-another-device", check_rule)
def tensor_made_on_the_cpu() -> ComposedRule:
    class Retention(ScalarDecay):
        def keep(self, tokens: Tokens) -> Tensor:
            return torch.ones(tokens.retain.shape, dtype=tokens.retain.dtype) * cast(Tensor, tokens.retain)

    return composed(retention=Retention())


@planted("float32-stays-float32-and-near-float64", check_rule)
def memory_that_turns_double() -> ComposedRule:
    class Rule(_Step):
        def step(self, params: Any, state: State, token: Tokens) -> Any:
            y, after = super().step(params, state, token)
            return y, after.replace(memory=after.memory.map(torch.Tensor.double))

    return composed(Rule)


@planted("state-goes-through-a-file", check_rule)
def memory_beside_the_state() -> ComposedRule:
    class Rule(_Step):
        seen = 0.0

        def step(self, params: Any, state: State, token: Tokens) -> Any:
            y, after = super().step(params, state, token)
            self.seen += 0.25
            return y + self.seen, after

    return composed(Rule)


@planted("state-keeps-its-shape", check_rule)
def state_that_grows() -> ComposedRule:
    class Rule(_Step):
        def step(self, params: Any, state: State, token: Tokens) -> Any:
            y, after = super().step(params, state, token)
            past = state["past"] if "past" in state else token.k[:, :, None][:, :, :0]
            return y, after.replace(past=torch.cat((past, token.k.unsqueeze(2)), 2))

    return composed(Rule)


@planted("bad-numbers-stay-in-their-row", check_rule)
def nan_that_vanishes() -> ComposedRule:
    class Bias(L2):
        affine = None

        def cotangent(self, prediction: Tensor, v: Tensor, tokens: Tokens) -> Tensor:
            return torch.nan_to_num(prediction - v)

    class Rule(_Step):
        def step(self, params: Any, state: State, token: Tokens) -> Any:
            clean = token.map(torch.nan_to_num)
            return super().step(params, state, clean)

        def read(self, params: Any, state: State, q: Tensor) -> Tensor:
            return super().read(params, state, torch.nan_to_num(q))

    return composed(Rule, bias=Bias())
