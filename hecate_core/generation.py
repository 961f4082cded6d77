"""Text from a model: prefill with the prompt, then one byte at a time with the state carried."""

from collections.abc import Iterator

import torch

from hecate_core.errors import InputError
from hecate_core.model import LanguageModel


def generate(
    model: LanguageModel,
    prompt: bytes,
    *,
    count: int = 200,
    temperature: float = 0.8,
    seed: int = 0,
    remember: bool = True,
) -> Iterator[bytes]:
    """Yield `count` bytes that continue the prompt; `temperature` 0 takes the likeliest byte.

    With `remember=False` the memory is never written. The model is not changed: state lives in this call. Raises
    InputError for an empty prompt, a negative count or temperature, and a model that does not speak bytes.
    """
    if not prompt:
        raise InputError('generate: the prompt is empty; expected at least one byte, such as --prompt "The "')
    if count < 0 or not 0 <= temperature < float("inf"):
        raise InputError(f"generate: count {count}, temperature {temperature}; expected both >= 0")
    if model.vocab < 256:
        raise InputError(f"generate: the model knows {model.vocab} symbols; expected 256 bytes")
    device = model.head.weight.device
    random = torch.Generator().manual_seed(seed)
    ids = torch.tensor([list(prompt)], dtype=torch.int64, device=device)
    state = model.init_state(1)
    for _ in range(count):
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
