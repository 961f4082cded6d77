"""Rules whose form says something else than their step."""

from typing import Any

import attrs
import torch

from hecate_core.api import MLP, ComposedRule, GradientDescent, Tensor, Tokens
from hecate_core.forms import Affine, Linearised
from hecate_core.testing import check_rule

from .planting import composed, planted


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
