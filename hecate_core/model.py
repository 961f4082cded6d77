"""A byte-level language model of memory blocks: embedding, blocks, norm, head; state in, state out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from hecate_core.channel import SwiGLU
from hecate_core.cms import CMS
from hecate_core.differentiation import autodiff
from hecate_core.errors import InputError
from hecate_core.input_checks import StateShape, check_ids, check_marks, refuse_transforms
from hecate_core.mixer import Mixer
from hecate_core.records import State
from hecate_core.shapes import Bool, Float, Int, Tensor

NORM_EPS = 1e-6
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "rms": lambda width: nn.RMSNorm(width, eps=NORM_EPS),
    "layer": nn.LayerNorm,
    "none": lambda _: nn.Identity(),
}


class Block(nn.Module):
    """x + mixer(norm(x)), then x + channel(norm(x)); `residual=False` drops both skips.

    `channel` is "swiglu", "none", or a table of options for a chain of MLPs at paces of their own (`CMS`).
    Source: [2501.00663] Sec. 4.4; pre-norm is our choice.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        mixer: Mapping[str, Any],
        norm: str = "rms",
        residual: bool = True,
        expansion: float = 8 / 3,
        channel: str | Mapping[str, Any] = "swiglu",
    ) -> None:
        super().__init__()
        self._residual = residual
        self.mixer_norm = NORMS[norm](width)
        self.mixer = Mixer(width, heads, **mixer)
        self.channel_norm = NORMS[norm](width) if channel != "none" else None
        self.channel = _channel(width, expansion, channel)

    def init_state(self, batch: int) -> State:
        """The mixer's first state, and that of a chain under `channel`."""
        state = self.mixer.init_state(batch)
        return state.replace(channel=self.channel.init_state(batch)) if isinstance(self.channel, CMS) else state

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: State,
        write: Bool[Tensor, "B T"] | None = None,
        starts: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], State]:
        """Both halves of the block over the call's tokens."""
        y, after = self.mixer(self._normed(x), state.without("channel"), write, starts)
        x, channel = self._transform(x, y, state.get("channel"), starts)
        return x, after if channel is None else after.replace(channel=channel)

    @autodiff
    def _normed(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.mixer_norm(x))

    @autodiff
    def _transform(
        self, x: Tensor, y: Tensor, state: State | None, starts: Tensor | None
    ) -> tuple[Tensor, State | None]:
        x = x + y if self._residual else y
        if self.channel is None or self.channel_norm is None:
            return x, state
        if isinstance(self.channel, CMS):
            assert state is not None
            y, state = self.channel(self.channel_norm(x), state, starts)
        else:
            y = self.channel(self.channel_norm(x))
        return (x + y if self._residual else y), state


def _channel(width: int, expansion: float, channel: str | Mapping[str, Any]) -> SwiGLU | CMS | None:
    if isinstance(channel, Mapping):
        return CMS(width, expansion=expansion, **channel)
    return SwiGLU(width, expansion) if channel != "none" else None


class LanguageModel(nn.Module):
    """Bytes (or any ids below `vocab`) to logits over the next one; depends on no training flag.

    `forward(ids [B, T], state, write)` returns logits `[B, T, vocab]` and the state after the call. With `write`
    False everywhere the memory rests and is only read. `channels` names the channel of every block where they differ.
    """

    def __init__(
        self,
        *,
        vocab: int,
        width: int,
        depth: int,
        block: Mapping[str, Any],
        channels: Sequence[str | Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        self.vocab = vocab
        self._states = StateShape("model")
        self.embedding = nn.Embedding(vocab, width)
        each = [dict(block)] * depth if channels is None else [{**block, "channel": one} for one in channels]
        self.blocks = nn.ModuleList(Block(width, **one) for one in each)
        self.norm = NORMS[block.get("norm", "rms")](width)
        self.head = nn.Linear(width, vocab, bias=False)
        nn.init.uniform_(self.embedding.weight, -(width**-0.5), width**-0.5)

    def init_state(self, batch: int) -> State:
        """A fresh context for `batch` rows; make it outside a Tape."""
        blocks = {f"block{i}": cast(Block, block).init_state(batch) for i, block in enumerate(self.blocks)}
        return State.of(blocks)

    def forward(
        self,
        ids: Int[Tensor, "B T"],
        state: State,
        write: Bool[Tensor, "B T"] | None = None,
        starts: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T V"], State]:
        """Logits for the byte after each of these, and the state after them.

        A token where `starts` is True opens a document: nothing before it is seen, memory, window and convolution.
        Raises CompositionError where a rule, strategy or composition cannot do that exactly; InputError for ids that
        are no integers below `vocab` (on the CPU), for the state of another model or batch, and under torch.func.
        """
        refuse_transforms("model", self.parameters())
        check_ids(ids, self.vocab, self.head.weight.device)
        for name, marks in (("write", write), ("starts", starts)):
            check_marks(f"model: {name}", marks, ids.shape[0], ids.shape[1], ids.device)
        self._states.check(self, state, ids.shape[0])
        x, after = self._embed(ids), {}
        for i, block in enumerate(self.blocks):
            x, after[f"block{i}"] = block(x, state[f"block{i}"], write, starts)
        return self._logits(x), State.of(after).replace(position=state.position + ids.shape[1])

    def unreached(self, position: int, count: int) -> set[str]:
        """Parameters that a call may leave without a gradient, since it reads nothing that they write: for a Tape."""
        return {
            f"{path}.{name}"
            for path, module in self.named_modules()
            if isinstance(module, Mixer)
            for name in module.unreached(position, count)
        }

    @autodiff
    def _embed(self, ids: Int[Tensor, "B T"]) -> Tensor:
        return cast(Tensor, self.embedding(ids))

    @autodiff
    def _logits(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.norm(x)))


@autodiff
def next_token_loss(logits: Float[Tensor, "B T V"], targets: Int[Tensor, "B T"]) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats per token, in float32 or wider. Targets equal to -1 do not count."""
    if logits.shape[:2] != targets.shape:
        raise InputError(f"loss: logits {tuple(logits.shape)} against targets {tuple(targets.shape)}; expected [B, T]")
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide.flatten(0, 1), targets.flatten(), ignore_index=-1)
