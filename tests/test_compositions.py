"""MAL and MAC against their equations written token by token, and what the printed MAC does that it must not."""

from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F

from hecate_core.errors import CompositionError, InputError
from hecate_core.mixer import Mixer
from hecate_core.protocols import Attention, Memory
from hecate_core.records import State
from hecate_core.registry import registry
from hecate_core.shapes import Tensor
from hecate_core.testing.members import WIDTH, WINDOW, Cell, tiny_mixer

COUNT = 8  # tokens: two segments of three and a short one
SAME = 1e-12  # float64: the same sums in another order


def mixer_of(composition: Any, **memory: Any) -> Mixer:
    return tiny_mixer(Cell(composition, "titans", "sequential"), memory={"conv": 0, **memory})


def sentence() -> Tensor:
    return torch.randn(2, COUNT, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def joined(mixer: Mixer, x: Tensor) -> Tensor:
    """The composition's own output: what the mixer makes before its projection."""
    with torch.no_grad():
        y: Tensor = mixer.join(x, mixer.memory, mixer.attention, mixer.init_state(2))[0]
    return y


def parts(mixer: Mixer) -> tuple[Memory, Attention]:
    return cast(Memory, mixer.memory), cast(Attention, mixer.attention)


@torch.no_grad()
def mac_by_hand(mixer: Mixer, x: Tensor) -> Tensor:
    """Token by token, attention over the listed rows by plain softmax: no interleaving, no window, no carried state."""
    memory, _ = parts(mixer)
    state, outputs = mixer.init_state(2).memory, []
    for begin in range(0, COUNT, WINDOW):
        start, recalls, rows = state, [], []
        for t in range(begin, min(begin + WINDOW, COUNT)):
            token = x[:, t : t + 1]
            recalls.append(memory.recall(token, start)[0])
            rows.append(token)
            order = [row for pair in zip(recalls, rows, strict=True) for row in pair]
            seen = softmax_attention(mixer.attention, torch.cat(order, 1))
            read, state = memory.absorb(seen, state)
            gate = mixer.join.gate
            rms = [F.rms_norm(one, (WIDTH,), eps=1e-6) for one in (seen, read)]
            outputs.append(F.silu(gate.attention_norm.weight * rms[0] * gate.memory_norm.weight * rms[1]))
    return torch.cat(outputs, 1)


def softmax_attention(attention: Any, rows: Tensor) -> Tensor:
    """What the last row sees of all rows and of the persistent tokens; rotary angles count rows from 0."""

    def heads(one: Tensor) -> Tensor:
        return one.unflatten(-1, (2, -1)).transpose(1, 2)  # type: ignore[no-any-return]

    def turned(one: Tensor) -> Tensor:
        half = one.shape[3] // 2
        angles = torch.arange(one.shape[2], dtype=one.dtype).unsqueeze(-1) * 10000.0 ** -(
            torch.arange(half, dtype=one.dtype) / half
        )
        a, b = one[..., :half], one[..., half:]
        return torch.cat((a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()), -1)

    q, k, v = (heads(one) for one in attention.project(rows).chunk(3, -1))
    _, fixed_k, fixed_v = (heads(one) for one in attention.project(attention.persistent[None]).chunk(3, -1))
    fixed = q[:, :, -1:] @ fixed_k.mT  # persistent tokens carry no position
    scores = torch.cat((fixed, turned(q)[:, :, -1:] @ turned(k).mT), -1) * q.shape[3] ** -0.5
    seen = scores.softmax(-1) @ torch.cat((fixed_v.expand(2, -1, -1, -1), v), 2)
    out: Tensor = seen.transpose(1, 2).flatten(2)
    return out


def test_mac_is_its_specification_token_by_token() -> None:
    mixer, x = mixer_of("mac"), sentence()
    torch.testing.assert_close(joined(mixer, x), mac_by_hand(mixer, x), atol=SAME, rtol=SAME)


def test_mac_segments_meet_in_the_memory_alone() -> None:
    """With writes off, a segment does not depend on the one before it."""
    mixer, x = mixer_of("mac"), sentence()
    other = x.clone()
    other[:, :WINDOW] = 0.0
    off = torch.zeros(2, COUNT, dtype=torch.bool)
    with torch.no_grad():
        one, two = (mixer(given, mixer.init_state(2), off)[0] for given in (x, other))
        written, unwritten = (mixer(given, mixer.init_state(2))[0] for given in (x, other))
    assert torch.equal(one[:, WINDOW:], two[:, WINDOW:])
    assert not torch.equal(written[:, WINDOW:], unwritten[:, WINDOW:])


def test_mac_state_has_the_same_size_after_any_number_of_tokens() -> None:
    mixer = mixer_of("mac")
    sizes = []
    state = mixer.init_state(2)
    with torch.no_grad():
        for piece in sentence().split(1, 1):
            sizes.append({name: one.shape for name, one in state.flat().items()})
            _, state = mixer(piece, state)
    assert all(one == sizes[0] for one in sizes)


def test_mal_is_attention_over_the_read() -> None:
    x = sentence()
    for residual in (True, False):
        mixer = mixer_of({"name": "mal", "residual": residual})
        memory, attention = parts(mixer)
        with torch.no_grad():
            read, _ = memory.absorb(x, mixer.init_state(2).memory)
            expected, _ = attention(read + x if residual else read, None)
        assert torch.equal(joined(mixer, x), expected)


@torch.no_grad()
def printed_by_hand(mixer: Mixer, x: Tensor) -> Tensor:
    """[2501.00663] Eq. 21-25 line by line, one segment after the other."""
    memory, attention = parts(mixer)
    state, outputs = mixer.init_state(2).memory, []
    for segment in x.split(WINDOW, 1):
        h, _ = memory.recall(segment, state)
        y = attention(torch.cat((h, segment), 1), None)[0][:, segment.shape[1] :]
        _, state = memory.absorb(y, state)
        outputs.append(y * torch.sigmoid(memory.recall(y, state)[0]))
    return torch.cat(outputs, 1)


def test_the_printed_mac_is_its_equations_and_leaks_the_future() -> None:
    mixer, x = mixer_of({"name": "mac-printed", "gate": "sigmoid"}), sentence()
    expected = printed_by_hand(mixer, x)
    torch.testing.assert_close(joined(mixer, x), expected, atol=SAME, rtol=SAME)
    other = x.clone()
    other[:, WINDOW - 1] += 1.0
    moved = (joined(mixer, other) - expected).abs()
    assert float(moved[:, : WINDOW - 1].max()) > 1e-5  # earlier tokens of the same segment
    assert registry().component("composition", "mac-printed").causal is False


def test_the_printed_mac_refuses_to_go_on_inside_a_segment() -> None:
    mixer, x = mixer_of("mac-printed"), sentence()
    with torch.no_grad():
        _, state = mixer(x[:, :WINDOW], mixer.init_state(2))
        mixer(x[:, :2], state)
        _, inside = mixer(x[:, :2], mixer.init_state(2))
        with pytest.raises(InputError, match=r"inside a segment of 3; .* use composition \"mac\""):
            mixer(x[:, :1], inside)


@pytest.mark.parametrize("name", ["mag", "mac", "mac-printed"])
def test_an_unknown_gate_is_one_line(name: str) -> None:
    with pytest.raises((CompositionError, InputError), match="norm"):
        mixer_of({"name": name, "gate": "tanh"})


def test_a_composition_is_given_the_window_in_tokens_and_attention_the_rows() -> None:
    mixer = mixer_of("mac")
    state: State = mixer.init_state(1)
    assert state.attention.past_k.shape[2] == 2 * WINDOW - 1
    assert mixer_of("mal").init_state(1).attention.past_k.shape[2] == WINDOW - 1
