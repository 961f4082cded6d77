"""What every optimizer shares: a resting level collects its gradients and nothing of it moves.

Every level is a group with its own moments and its own step counter, the number of times it fired;
bias correction counts fires (specification: Nested Learning, arXiv 2512.24695, Eq. 71).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hecate_core.errors import CheckpointError, DivergedError, InputError, nearest
from hecate_core.levels import LevelSpec, Pulse, levels_of
from hecate_core.optimizers.checks import at_least_zero, counts, label
from hecate_core.optimizers.owners import NamedParameters, level_of_parameters

# A buffer of P uncorrelated gradients is sqrt(P) times as long as one of them, of P aligned ones P times.
UNHEALTHY = 3.0


def wide(tensor: Tensor) -> Tensor:
    """The tensor without history, in float32 or wider; the same storage where it is wide already."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


class LevelOptimizer:
    """Groups by level, error buffers, clipping, exact state; a subclass says how one parameter moves.

    `named_parameters` is the model, or pairs of name and parameter where no level rests. Parameters
    that ask for no gradient are left out. State is float32 or wider and lies beside the parameters: one
    tensor per slot and parameter, `slots` for all of them unless `slots_of` says otherwise.
    Raises InputError for a level that `levels` does not have.
    """

    slots: tuple[str, ...] = ()

    def __init__(
        self,
        named_parameters: NamedParameters,
        *,
        levels: object = None,
        lr: float,
        weight_decay: float,
        clip: float | None,
    ) -> None:
        self.levels: tuple[LevelSpec, ...] = levels_of(levels)
        self.lr = at_least_zero("lr", lr)
        self.weight_decay = at_least_zero("weight_decay", weight_decay)
        self.clip = None if clip is None else at_least_zero("clip", clip)
        owners = self._owners(named_parameters)
        pairs = named_parameters.named_parameters() if isinstance(named_parameters, nn.Module) else named_parameters
        self.parameters = {name: parameter for name, parameter in pairs if parameter.requires_grad}
        if not self.parameters:
            raise InputError("optimizer: no parameter asks for a gradient; expected at least one")
        self.level_of = {name: owners.get(name) for name in self.parameters}
        for name, level in self.level_of.items():
            if level is not None and not 0 <= level < len(self.levels):
                raise InputError(f"{name}: level {level} of {len(self.levels)}; expected a level that `levels` names")
        self.fires: dict[int | None, int] = dict.fromkeys([None, *range(len(self.levels))], 0)
        self.pending = dict.fromkeys(range(len(self.levels)), 0)
        self.state: dict[str, dict[str, Tensor]] = {"buffer": {}}
        for name in self.parameters:
            for slot in self.slots_of(name):
                self.state.setdefault(slot, {})[name] = self.first(slot, name)
        self._ratios: dict[int, Tensor] = {}

    def _owners(self, named_parameters: NamedParameters) -> dict[str, int | None]:
        if isinstance(named_parameters, nn.Module):
            return level_of_parameters(named_parameters)
        if any(level.update_period > 1 for level in self.levels):
            raise InputError("optimizer: pairs of name and parameter carry no levels; give the model itself")
        return {}

    def slots_of(self, name: str) -> tuple[str, ...]:
        """The slots that this parameter has."""
        return self.slots

    def first(self, slot: str, name: str) -> Tensor:
        """What a slot holds before the first step: zeros of the parameter's shape."""
        return torch.zeros_like(wide(self.parameters[name]), memory_format=torch.preserve_format)

    def move(self, name: str, work: Tensor, grad: Tensor, rate: float, decay: float) -> None:
        """One update of `work` in place, from the reduced and clipped gradient; the rule of the optimizer.

        `work` is the parameter, float32 or wider; `rate` the learning rate of its level; `decay` is 0 for vectors.
        """
        raise NotImplementedError(f"{type(self).__name__}.move is still to write: one update of a parameter, in place")

    def step(self, grads: Mapping[str, Tensor], pulse: Pulse, lr: float | None = None) -> None:
        """Update what is due at `pulse`, buffer the gradients of what rests; in place, no return.

        `grads` holds one gradient per parameter, resting ones too. `lr` replaces the rate given at
        construction for this step. Raises InputError for missing, unknown or misshapen gradients and
        DivergedError for a non-finite one; then nothing has moved.
        """
        self._check(grads, pulse)
        rate = self.lr if lr is None else at_least_zero("lr", lr)
        fresh = {name: wide(grads[name]) for name in self.parameters}
        due = [name for name, level in self.level_of.items() if level is None or pulse.update[level]]
        sums = {name: self._sum(name, fresh[name]) for name in due}
        norms = {name: torch.linalg.vector_norm(grad) for name, grad in {**fresh, **sums}.items()}
        self._refuse_non_finite(norms, pulse)
        self._measure_health(fresh, norms, pulse)
        ready = self._clipped({name: self._reduced(name, total) for name, total in sums.items()})
        for name in self.parameters:
            if name not in sums:
                self._collect(name, fresh[name])
        self._count(pulse)
        for name, total in ready.items():
            self._update(name, total, rate)

    def _sum(self, name: str, grad: Tensor) -> Tensor:
        """What the level's period adds up to; the gradient itself, untouched, where nothing is pending."""
        pending = self.state["buffer"].get(name)
        return grad if pending is None else pending + grad

    def _collect(self, name: str, grad: Tensor) -> None:
        pending = self.state["buffer"].get(name)
        self.state["buffer"][name] = grad.clone() if pending is None else pending.add_(grad)

    def _reduced(self, name: str, total: Tensor) -> Tensor:
        level = self.level_of[name]
        if level is None or self.pending[level] == 0 or self.levels[level].reduce == "sum":
            return total
        return total / (self.pending[level] + 1)

    def _clipped(self, totals: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scaled to the global norm of what is due, after reduction, as torch's clip_grad_norm_."""
        if self.clip is None or not totals:
            return totals
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(total) for total in totals.values()]))
        factor = torch.clamp(self.clip / (norm + 1e-6), max=1.0)
        return {name: total * factor.to(total.dtype) for name, total in totals.items()}

    def _count(self, pulse: Pulse) -> None:
        self.fires[None] += 1
        for level, due in enumerate(pulse.update):
            if due:
                self.fires[level] += 1
                self.pending[level] = 0
                for name in self._names(level):
                    self.state["buffer"].pop(name, None)
            else:
                self.pending[level] += 1

    def _names(self, level: int) -> list[str]:
        return [name for name, owner in self.level_of.items() if owner == level]

    def _update(self, name: str, total: Tensor, rate: float) -> None:
        level = self.level_of[name]
        scale = 1.0 if level is None else self.levels[level].lr_scale
        parameter = self.parameters[name].detach()
        work = wide(parameter)  # the parameter itself unless it is narrower than float32
        decay = self.weight_decay if parameter.dim() >= 2 else 0.0
        self.move(name, work, total, rate * scale, decay)
        if work.dtype != parameter.dtype:
            parameter.copy_(work)

    def _measure_health(self, fresh: Mapping[str, Tensor], norms: Mapping[str, Tensor], pulse: Pulse) -> None:
        """Keep |sum| / |gradient| of every level that fires with gradients pending."""
        for level, due in enumerate(pulse.update):
            names = self._names(level)
            if due and self.pending[level] and names:
                newest = torch.stack([torch.linalg.vector_norm(fresh[name]) for name in names])
                whole = torch.stack([norms[name] for name in names])
                last = torch.linalg.vector_norm(newest)
                self._ratios[level] = torch.linalg.vector_norm(whole) / last.clamp(min=torch.finfo(last.dtype).tiny)

    def health(self) -> dict[int, float]:
        """|sum of a period's gradients| / |the last one|, by level, at its latest fire.

        About sqrt(P) for uncorrelated gradients, P for aligned ones, P the update period. The
        caller reads it when it wants to know: on a GPU it waits for the device.
        """
        return {level: float(ratio) for level, ratio in self._ratios.items()}

    def warnings(self) -> list[str]:
        """One line for every level whose health ratio exceeds 3 sqrt(P)."""
        found = []
        for level, ratio in self.health().items():
            bound = UNHEALTHY * float(self.levels[level].update_period) ** 0.5
            if not ratio <= bound:
                found.append(
                    f"level {level}: error buffer {ratio:.3g} times the gradient; expected at most {bound:.3g}"
                )
        return found

    def _check(self, grads: Mapping[str, Tensor], pulse: Pulse) -> None:
        if torch.is_inference_mode_enabled():
            raise InputError("optimizer.step: called inside a Tape; step after the Tape has ended")
        if len(pulse.update) != len(self.levels):
            raise InputError(f"pulse: {len(pulse.update)} levels; the optimizer has {len(self.levels)}")
        for name in grads:
            if name not in self.parameters:
                raise InputError(f'gradient of "{name}": no such parameter{nearest(name, self.parameters)}')
        for name, parameter in self.parameters.items():
            if name not in grads:
                raise InputError(f"{name}: no gradient given; expected one for every parameter, resting levels too")
            if grads[name].shape != parameter.shape:
                raise InputError(
                    f"gradient of {name}: shape {tuple(grads[name].shape)}; expected {tuple(parameter.shape)}"
                )

    def _refuse_non_finite(self, norms: Mapping[str, Tensor], pulse: Pulse) -> None:
        """One device wait per step, for all parameters together."""
        if bool(torch.stack([norm.double() for norm in norms.values()]).isfinite().all()):
            return
        name = next(name for name, norm in norms.items() if not bool(norm.isfinite()))
        level = self.level_of[name]
        where = "" if level is None else f" (level {level})"
        raise DivergedError(f"step {pulse.step}: gradient of {name}{where} is not finite; nothing was updated")

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that the next step depends on: flat tensors and JSON-able counters.

        The tensors are the live ones: copy or save them before the next step.
        """
        tensors = {f"{slot}/{name}": value for slot, part in self.state.items() for name, value in part.items()}
        counters = {
            "kind": type(self).__name__,
            "fires": {label(level): count for level, count in self.fires.items()},
            "pending": {label(level): count for level, count in self.pending.items()},
        }
        return tensors, counters

    def load_state_dict(self, tensors: Mapping[str, Tensor], counters: Mapping[str, Any]) -> None:
        """Continue exactly from `state_dict`; raises CheckpointError where it does not fit, then nothing changed."""
        if counters.get("kind") != type(self).__name__:
            raise CheckpointError(f"optimizer: state of {counters.get('kind')!r}; expected {type(self).__name__!r}")
        fires = counts(counters, "fires", self.fires)
        pending = counts(counters, "pending", self.pending)
        buffered = [name for name, level in self.level_of.items() if level is not None and pending[level]]
        wanted = {f"{slot}/{name}" for name in self.parameters for slot in self.slots_of(name)}
        wanted |= {f"buffer/{name}" for name in buffered}
        if wanted != set(tensors):
            odd = sorted(wanted ^ set(tensors))[0]
            raise CheckpointError(f"optimizer: {odd} is {'missing' if odd in wanted else 'not expected'}")
        loaded: dict[str, dict[str, Tensor]] = {slot: {} for slot in self.state}
        for key, tensor in tensors.items():
            slot, name = key.split("/", 1)
            model = wide(self.parameters[name]) if slot == "buffer" else self.state[slot][name]
            if tensor.shape != model.shape or tensor.dtype != model.dtype:
                raise CheckpointError(
                    f"optimizer: {key} is {tensor.dtype} {tuple(tensor.shape)}; "
                    f"expected {model.dtype} {tuple(model.shape)}"
                )
            loaded[slot][name] = torch.empty_like(model).copy_(tensor.detach())
        self.state, self.fires, self.pending = loaded, fires, pending
        self._ratios = {}
