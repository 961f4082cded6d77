"""Text from a model: prefill with the prompt, then one byte at a time with the state carried."""

from collections.abc import Iterator

import torch

from hecate_core.errors import InputError
from hecate_core.model import LanguageModel
from hecate_core.observing import chains_of, observe
from hecate_core.records import State
from hecate_core.shapes import Tensor


def generate(
    model: LanguageModel,
    prompt: bytes,
    *,
    count: int = 200,
    temperature: float = 0.8,
    seed: int = 0,
    remember: bool = True,
    learn: bool = False,
) -> Iterator[bytes]:
    """`count` bytes, one by one, that continue the prompt; `temperature` 0 takes the likeliest byte.

    With `remember=False` the memory is never written. With `learn` FAST levels learn from the prompt, whose every byte
    judges what was said of it; what is generated teaches nothing (specs/cms.md, section "Who judges"). The model is not
    changed: state lives in this call. Raises InputError, before the first byte, for an empty prompt, a negative count
    or temperature, a seed that torch does not take, a model that does not speak bytes, and a prompt that teaches no
    level.
    """
    if not prompt:
        raise InputError('generate: the prompt is empty; expected at least one byte, such as --prompt "The "')
    if count < 0:
        raise InputError(f"generate: count {count}; expected an integer >= 0")
    if not 0 <= temperature < float("inf"):
        raise InputError(f"generate: temperature {temperature}; expected a finite number >= 0")
    if not 0 <= seed < 2**63:
        raise InputError(f"generate: seed {seed}; expected an integer between 0 and 2^63 - 1")
    if model.vocab < 256:
        raise InputError(f"generate: the model knows {model.vocab} symbols; expected 256 bytes")
    if learn:
        _refuse_without_a_lesson(model, len(prompt), remember)
    return _bytes(model, prompt, count, temperature, seed, remember=remember, learn=learn)


def _bytes(
    model: LanguageModel, prompt: bytes, count: int, temperature: float, seed: int, *, remember: bool, learn: bool
) -> Iterator[bytes]:
    device = model.head.weight.device
    random = torch.Generator().manual_seed(seed)
    ids = torch.tensor([list(prompt)], dtype=torch.int64, device=device)
    state = model.init_state(1)
    for index in range(count):
        if learn and not index:
            logits, state = _learned(model, ids, state)
        else:
            with torch.inference_mode():
                write = None if remember else torch.zeros(ids.shape, dtype=torch.bool, device=device)
                logits, state = model(ids, state, write)
        chosen = _choose(logits[0, -1].double().cpu(), temperature, random)
        ids = torch.tensor([[chosen]], device=device)
        yield bytes([chosen])


def _choose(logits: torch.Tensor, temperature: float, random: torch.Generator) -> int:
    if temperature == 0.0:
        return int(logits.argmax())
    return int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=random))


def _learned(model: LanguageModel, ids: Tensor, state: State) -> tuple[Tensor, State]:
    """The prompt read while it teaches: the last byte's successor is not known and judges nothing."""
    targets = torch.cat((ids[:, 1:], torch.full_like(ids[:, :1], -1)), 1)
    seen = observe(model, ids, targets, state)
    return seen.logits, seen.state


def _refuse_without_a_lesson(model: LanguageModel, count: int, remember: bool) -> None:
    if not remember:
        raise InputError("generate: learn = True with the memory off; expected one of the two")
    chains = chains_of(model).values()
    periods = [chain.grain * spec.write_period for chain in chains for spec in chain.specs if spec.rate]
    if not periods:
        raise InputError(
            "generate: learn = True, but no level learns as it reads; expected a rate in model.cms.levels of its config"
        )
    if count < min(periods):
        raise InputError(
            f"generate: learn = True, but the prompt has {count} bytes and no level learns before {min(periods)}; "
            "expected a longer prompt"
        )
