"""Members with one planted fault each, beside the name of the check that must tell it."""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import attrs
import torch
from torch import nn

from hecate_core.api import (
    L2,
    MLP,
    ComposedRule,
    Dot,
    Gate,
    GradientDescent,
    Matrix,
    Momentum,
    Rates,
    ScalarDecay,
    State,
    Tensor,
    Tokens,
)
from hecate_core.forms import Affine, Linearised, Refused
from hecate_core.output_gate import OutputGate
from hecate_core.strategies.chunkwise import Chunkwise
from hecate_core.strategies.frozen import Frozen
from hecate_core.strategies.sequential import Sequential
from hecate_core.testing import (
    Check,
    check_algorithm,
    check_bias,
    check_composition,
    check_retention,
    check_rule,
    check_strategy,
    check_structure,
)

DELTA = {"structure": "matrix", "bias": "l2", "retention": "scalar", "algorithm": {"name": "gd", "at": "kept"}}


class Fault(NamedTuple):
    """What was done to the member, the check that finds it, and how to run the kit over it."""

    told_by: str
    run: Callable[[], Iterator[Check]]


FAULTS: dict[str, Fault] = {}


def planted(told_by: str, kit: Callable[..., Iterator[Check]], **options: Any) -> Callable[[Any], Any]:
    """Add a faulty class or factory under its own name."""

    def add(made: Any) -> Any:
        member = made if kit is check_composition else made()
        FAULTS[made.__name__] = Fault(told_by, lambda: kit(member, **options))
        return made

    return add


def composed(kind: type[ComposedRule] = ComposedRule, **knobs: Any) -> ComposedRule:
    chosen: dict[str, Any] = {"structure": Matrix(), "bias": L2(), "retention": ScalarDecay(), **knobs}
    chosen.setdefault("algorithm", Momentum())
    return kind("faulty", **chosen)


# Rules whose form says something else than their step.


class _Coefficients(ComposedRule):
    """The affine form, with one coefficient changed by a subclass."""

    def offers(self, form: Any) -> Any:
        answer = super().offers(form)
        if form is Affine:
            return attrs.evolve(answer, coefficients=lambda p, t: self.spoilt(self._coefficients(p, t), t))
        return answer

    def spoilt(self, c: Any, tokens: Tokens) -> Any:
        raise NotImplementedError


@planted("affine-decay-and-erase-terms-reproduce-step", check_rule)
def swapped_decay_order() -> ComposedRule:
    class Rule(_Coefficients):
        def spoilt(self, c: Any, tokens: Tokens) -> Any:
            return c._replace(erase=tokens.write)  # the error of the raw memory; the step takes the kept one's

    return composed(Rule, algorithm=GradientDescent(at="kept"))


@planted("affine-decay-and-erase-terms-reproduce-step", check_rule)
def keep_as_what_is_forgotten() -> ComposedRule:
    class Rule(_Coefficients):
        def spoilt(self, c: Any, tokens: Tokens) -> Any:
            return c._replace(keep=1.0 - c.keep)

    return composed(Rule)


@planted("affine-momentum-term-reproduces-step", check_rule)
def missing_momentum_term() -> ComposedRule:
    class Rule(_Coefficients):
        def spoilt(self, c: Any, tokens: Tokens) -> Any:
            return c._replace(momentum=torch.zeros_like(c.momentum))

    return composed(Rule)


@planted("affine-write-term-reproduces-step", check_rule)
def write_without_its_gate() -> ComposedRule:
    class Rule(_Coefficients):
        def spoilt(self, c: Any, tokens: Tokens) -> Any:
            return c._replace(write=torch.ones_like(c.write))

    return composed(Rule)


@planted("affine-coefficients-see-their-own-token-alone", check_rule)
def coefficients_that_look_ahead() -> ComposedRule:
    class Rule(_Coefficients):
        def spoilt(self, c: Any, tokens: Tokens) -> Any:
            return c._replace(write=0.5 * (c.write + c.write.roll(-1, 2)))

    return composed(Rule)


@planted("linearised-factors-equal-the-inner-gradient", check_rule)
def pullback_without_the_slope() -> ComposedRule:
    class Structure(MLP):
        def pullback(self, params: Any, weights: Any, trace: Any, d: Tensor) -> Any:
            return {"w2": d, "w1": weights.pull("w2", d)}

    return composed(structure=Structure())


@planted("linearised-factors-reproduce-step-at-the-anchor", check_rule)
def factors_with_half_the_write() -> ComposedRule:
    class Rule(ComposedRule):
        def offers(self, form: Any) -> Any:
            answer = super().offers(form)
            return attrs.evolve(answer, factors=self._halved, pace=None) if form is Linearised else answer

        def _halved(self, *given: Any) -> Any:
            factors = self._factors(*given)
            return factors._replace(updates={n: (0.5 * u, x) for n, (u, x) in factors.updates.items()})

    return composed(Rule, structure=MLP())


@planted("linearised-claim-of-exactness-holds", check_rule)
def exactness_that_is_none() -> ComposedRule:
    class Rule(ComposedRule):
        def offers(self, form: Any) -> Any:
            answer = super().offers(form)
            return attrs.evolve(answer, exact=True) if form is Linearised else answer

    return composed(Rule)


# Rules whose step breaks a law.


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


# Strategies.


@planted("is-causal", check_strategy, rules=[DELTA])
def leak_of_one_future_token() -> Any:
    class Strategy(Chunkwise):
        def __call__(self, rule: Any, params: Any, tokens: Tokens, state: State, write: Any = None) -> Any:
            v = torch.cat((tokens.v[:, :, :-1] + 1e-9 * tokens.v[:, :, 1:], tokens.v[:, :, -1:]), 2)
            return super().__call__(rule, params, tokens.replace(v=v), state, write)

    return Strategy(chunk=4)


@planted("equals-sequential", check_strategy, rules=[DELTA])
def exactness_claimed_by_an_approximation() -> Any:
    class Strategy(Frozen):
        exact = True

    return Strategy(chunk=4)


@planted("splits-change-nothing", check_strategy, rules=[DELTA])
def chunk_grid_that_restarts_at_each_call() -> Any:
    class Strategy(Frozen):
        def __call__(self, rule: Any, params: Any, tokens: Tokens, state: State, write: Any = None) -> Any:
            y, after = super().__call__(rule, params, tokens, state.replace(position=0), write)
            return y, after.replace(position=state.position + tokens.q.shape[2])

    return Strategy(chunk=4)


class _Halved(torch.autograd.Function):
    """The identity with a wrong derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Tensor:
        return -d


@planted("gradients-equal-differences", check_strategy, rules=[DELTA])
def wrong_sign_in_a_backward() -> Any:
    class Strategy(Chunkwise):
        def __call__(self, rule: Any, params: Any, tokens: Tokens, state: State, write: Any = None) -> Any:
            tokens = tokens.replace(k=_Halved.apply(tokens.k))
            return super().__call__(rule, params, tokens, state, write)

    return Strategy(chunk=4)


@planted("masked-tokens-rest", check_strategy, rules=[DELTA])
def write_mask_ignored() -> Any:
    class Strategy(Sequential):
        def __call__(self, rule: Any, params: Any, tokens: Tokens, state: State, write: Any = None) -> Any:
            return super().__call__(rule, params, tokens, state, None)

    return Strategy()


# Knobs.


@planted("pullback-equals-autograd", check_structure)
class NormWithoutItsMean(MLP):
    def __init__(self) -> None:
        super().__init__(norm=True, depth=1)

    def pullback(self, params: Any, weights: Any, trace: Any, d: Tensor) -> Any:
        return {"w1": d * params.norm_scale.unsqueeze(-2)}


@planted("affine-claim-reproduces-the-cotangent", check_bias)
class DotThatClaimsToBeL2(Dot):
    affine = (1.0, 1.0)


@planted("cotangent-is-a-gradient", check_bias)
class CotangentOfNoLoss(L2):
    affine = None

    def cotangent(self, prediction: Tensor, v: Tensor, tokens: Tokens) -> Tensor:
        return prediction.roll(1, -1) - v


@planted("more-retain-keeps-more", check_retention)
class ForgetGateCalledRetain(ScalarDecay):
    def keep(self, tokens: Tokens) -> Tensor:
        return 1.0 - cast(Tensor, tokens.retain)


@planted("inverse-undoes-the-link", check_retention)
class InverseOfSomethingElse(ScalarDecay):
    link = staticmethod(torch.tanh)
    inverse = staticmethod(torch.sinh)


@planted("rates-are-what-was-declared", check_algorithm)
class MomentumThatIsNotDeclared(Momentum):
    has_momentum = False


@planted("maps-keep-shapes-and-have-right-gradients", check_algorithm)
class StepMapOverTheBatch(Momentum):
    step_map = staticmethod(lambda step: step / step.norm())


# Compositions.


class _Reads(nn.Module):
    """LMM in short, for faults to stand on."""

    attends, remembers, recalls = False, True, False

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.gate = OutputGate(width)

    def forward(self, x: Tensor, memory: Any, attention: Any, state: State, write: Any = None) -> Any:
        read, after = memory.absorb(x, state.memory, write)
        return self.gate(read, x), state.replace(memory=after)


@planted("is-causal", check_composition)
class MeanOverTheCall(_Reads):
    def forward(self, x: Tensor, *given: Any) -> Any:
        y, state = super().forward(x, *given)
        return y + 0.01 * x.mean(1, keepdim=True), state


@planted("splits-change-nothing", check_composition)
class StaleConvolutionState(_Reads):
    def forward(self, x: Tensor, memory: Any, attention: Any, state: State, write: Any = None) -> Any:
        y, after = super().forward(x, memory, attention, state, write)
        old = state.memory.level0.front
        stale = after.memory.replace(level0=after.memory.level0.replace(front=old.replace(position=after.position)))
        return y, after.replace(memory=stale)


@planted("memory-is-written-once-per-token", check_composition)
class WritesTwice(_Reads):
    def forward(self, x: Tensor, memory: Any, attention: Any, state: State, write: Any = None) -> Any:
        _, once = memory.absorb(x, state.memory, write)
        return super().forward(x, memory, attention, state.replace(memory=once), write)


@planted("memory-is-heard", check_composition)
class MemoryThatIsNotHeard(_Reads):
    def forward(self, x: Tensor, *given: Any) -> Any:
        _, state = super().forward(x, *given)
        return self.gate(x, x), state


@planted("a-write-mask-reaches-the-memory", check_composition)
class MaskThatIsDropped(_Reads):
    def forward(self, x: Tensor, memory: Any, attention: Any, state: State, write: Any = None) -> Any:
        return super().forward(x, memory, attention, state, None)


@planted("same-call-same-bits", check_composition)
class DropoutWhileLearning(_Reads):
    def forward(self, x: Tensor, *given: Any) -> Any:
        y, state = super().forward(x, *given)
        return y * 2.0 if self.training else y, state


@planted("rows-are-independent", check_composition)
class BatchNormInside(_Reads):
    def forward(self, x: Tensor, *given: Any) -> Any:
        return super().forward(x - x.mean((0, 1), keepdim=True).detach() * (x.shape[1] > 1), *given)


@planted("gradient-reaches-every-parameter", check_composition)
class ReadCutFromTheGraph(_Reads):
    def forward(self, x: Tensor, memory: Any, attention: Any, state: State, write: Any = None) -> Any:
        read, after = memory.absorb(x, state.memory, write)
        return self.gate(read.detach(), x), state.replace(memory=after)


@planted("weights-go-through-a-state-dict", check_composition)
class WeightOutsideTheStateDict(_Reads):
    def __init__(self, *, width: int) -> None:
        super().__init__(width=width)
        self.scale = torch.randn(width)

    def forward(self, x: Tensor, *given: Any) -> Any:
        y, state = super().forward(x, *given)
        return y * self.scale.to(y.dtype), state
