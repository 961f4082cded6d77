"""Learning while reading: FAST levels of a chain take a step of their own after what they saw was judged.

A context judges itself, because the next token is its own target; so this works in a build, in a test and in service
alike, one piece behind. Without it FAST levels do not move. Spec: specs/cms.md, Eq. 4 to 8.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from attrs import frozen

from hecate_core.cms import CMS
from hecate_core.differentiation import Tape, cut
from hecate_core.errors import DataError, InputError
from hecate_core.model import Block, LanguageModel, next_token_loss
from hecate_core.precision import full_precision
from hecate_core.records import State
from hecate_core.shapes import Float, Int, Tensor

Changes = dict[str, Tensor]
"""What FAST levels have added to their weights, by path: `block0.channel.level1.change.up`."""


@frozen
class Observed:
    """What was predicted, how well in nats per counted token, the state after learning, and how steps looked.

    `health` has a number per FAST level that took a step, the last one: |sum of gradients| / |that of the last piece|,
    about sqrt(n) over n pieces of unrelated gradients, n of aligned ones.
    """

    logits: Float[Tensor, "B T V"]
    loss: float
    state: State
    health: Mapping[str, float]


def observe(model: LanguageModel, ids: Int[Tensor, "B T"], targets: Int[Tensor, "B T"], state: State) -> Observed:
    """Read tokens as `model(ids, state)` does, and let every FAST level learn from the targets (-1: not judged).

    Tokens are read in pieces that end where a FAST level's clock strikes; a gradient ends where its piece begins. So a
    text may be cut at any such place and nothing changes; a call that begins inside a piece is refused (InputError).
    Opens a Tape of its own and works under `no_grad`, not under `inference_mode`; no parameter moves.
    """
    if torch.is_inference_mode_enabled():
        raise InputError("observe: called under inference_mode or inside a Tape; expected no_grad, or neither")
    if ids.shape != targets.shape:
        raise InputError(f"observe: targets are {list(targets.shape)}; expected those of the ids, {list(ids.shape)}")
    chains = chains_of(model)
    _refuse_inside_a_piece(chains, state.position)
    logits, nats, counted, health = [], 0.0, 0, dict[str, float]()
    for begin, end in _pieces(chains, state.position, ids.shape[1]):
        leaves_state, leaves = with_leaves(state)
        with Tape() as tape:
            seen, after = model(ids[:, begin:end], leaves_state)
            loss = next_token_loss(seen, targets[:, begin:end])
        judged = int((targets[:, begin:end] >= 0).sum())
        with full_precision(ids.device):  # a backward belongs outside autocast
            found = tape.grad(loss, leaves) if leaves and judged else {}
        grads = {path: torch.zeros_like(leaves[path]) if one is None else one for path, one in found.items()}
        after = after.map(cut)
        health |= health_of(model, after, grads, judged)
        state = learned(model, after, grads, judged, end - begin) if grads else after
        logits.append(seen.detach())
        nats, counted = nats + float(loss.detach()) * judged if judged else nats, counted + judged
    whole = torch.cat(logits, 1) if logits else model(ids, state)[0].detach()
    return Observed(whole, nats / counted if counted else 0.0, state, health)


def learning_bits_per_byte(model: LanguageModel, passages: Sequence[bytes]) -> float:
    """Mean bits for every byte but the first of each passage, where FAST levels learn from the passage as they read it.

    Every passage begins with a fresh state; a byte is scored before it teaches. Raises DataError without two bytes.
    """
    device, nats, counted = model.head.weight.device, 0.0, 0
    for passage in passages:
        if len(passage) > 1:
            ids = torch.tensor([list(passage)], device=device)
            nats += observe(model, ids[:, :-1], ids[:, 1:], model.init_state(1)).loss * (len(passage) - 1)
            counted += len(passage) - 1
    if not counted:
        raise DataError("evaluation: no passage of two bytes or more; expected held-out text")
    return nats / counted / math.log(2.0)


def chains_of(model: LanguageModel) -> dict[str, CMS]:
    """Every chain of a model, by the name of its block's state."""
    found = {}
    for index, block in enumerate(model.blocks):
        if isinstance(block, Block) and isinstance(block.channel, CMS):
            found[f"block{index}"] = block.channel
    return found


def with_leaves(state: State) -> tuple[State, Changes]:
    """The state with every FAST level's change as a fresh leaf that asks for a gradient, and these by path."""
    leaves: Changes = {}
    for path, tensor in state.flat().items():
        if ".channel." in path and ".change." in path:
            leaves[path] = tensor.detach().clone().requires_grad_()
            state = state.put(path, leaves[path])
    return state, leaves


def learned(model: LanguageModel, state: State, grads: Mapping[str, Tensor], judged: int, count: int) -> State:
    """The state once FAST levels saw `grads` of the mean loss over `judged` tokens, from a piece of `count` tokens."""
    for name, chain in chains_of(model).items():
        path = f"{name}.channel"
        state = state.put(path, chain.learned(state.at(path), _of_chain(grads, path, judged), count))
    return state


def health_of(model: LanguageModel, state: State, grads: Mapping[str, Tensor], judged: int) -> dict[str, float]:
    """|pending + newest| / |newest| of every FAST level that is about to take its step."""
    found = {}
    for name, chain in chains_of(model).items():
        path = f"{name}.channel"
        for level, newest in _of_chain(grads, path, judged).items():
            if chain.steps_at(int(level.removeprefix("level")), state.at(path).position):
                pending = state.at(path)[level].pending
                whole = _norm([pending[key] + one for key, one in newest.items()])
                found[f"{path}.{level}"] = whole / max(_norm(list(newest.values())), 1e-30)
    return found


def refuse_clocks_inside(model: LanguageModel, length: int, *, documents: bool = False) -> None:
    """InputError where a FAST level of a build would learn, or a document begin, inside a chunk of `length` tokens."""
    for name, chain in chains_of(model).items():
        if documents and chain.finest():
            raise InputError(
                f"data.documents = true: {name} learns as it reads, and a chunk inside which a document begins would "
                "teach it nothing; drop documents, or the rate of model.cms.levels"
            )
        if chain.finest() % length:
            raise InputError(
                f"model.cms: {name} learns or begins anew every {chain.finest()} tokens; a build learns at the end of "
                f"a chunk, expected a multiple of its {length} tokens (grain times every period of a level with a rate)"
            )


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.stack([torch.linalg.vector_norm(one) for one in tensors]).norm())


def _of_chain(grads: Mapping[str, Tensor], path: str, scale: int) -> dict[str, dict[str, Tensor]]:
    """Of one chain by level and weight, times `scale`: what a row adds to the mean, that many times, is its sum."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, grad in grads.items():
        if name.startswith(f"{path}."):
            level, _, key = name.removeprefix(f"{path}.").split(".")
            found.setdefault(level, {})[key] = grad * scale
    return found


def _pieces(chains: Mapping[str, CMS], position: int, count: int) -> Iterator[tuple[int, int]]:
    ends = {count}.union(*(chain.clocks(position, count) for chain in chains.values()))
    begin = 0
    for end in sorted(ends):
        if end > begin:
            yield begin, end
            begin = end


def _refuse_inside_a_piece(chains: Mapping[str, CMS], position: int) -> None:
    for name, chain in chains.items():
        tick = chain.finest()
        if tick and position % tick:
            raise InputError(
                f"observe: the text goes on at token {position}, inside a piece of {tick} tokens of {name}; "
                f"expected calls that end at multiples of {tick}"
            )
