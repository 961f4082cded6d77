"""Hypothesis strategies for shapes, dtypes, cuts and tokens of any rule; needs the package hypothesis."""

from typing import Any

import torch
from hypothesis import strategies as st

from hecate_core.protocols import MemoryRule
from hecate_core.records import Tokens
from hecate_core.testing.samples import HEADS, KEYS, SLOTS, VALUES, tokens_for
from hecate_core.widths import full_widths


def lengths(longest: int = 40) -> st.SearchStrategy[int]:
    """Token counts, 0 included; small ones and chunk borders come up often."""
    return st.one_of(st.sampled_from([0, 1, 7, 15, 16, 17]), st.integers(0, longest))


def chunks() -> st.SearchStrategy[int]:
    """Chunk lengths, 1 and more than any text included."""
    return st.sampled_from([1, 2, 3, 5, 8, 16, 64])


def dtypes() -> st.SearchStrategy[torch.dtype]:
    """The floating types that a memory takes."""
    return st.sampled_from([torch.float64, torch.float32, torch.bfloat16])


@st.composite
def cuts(draw: Any, length: int) -> list[int]:
    """Lengths of the pieces that a text is cut into; empty pieces included, the sum is `length`."""
    borders = sorted(draw(st.lists(st.integers(0, length), max_size=5)))
    return [stop - start for start, stop in zip([0, *borders], [*borders, length], strict=True)]


@st.composite
def widths(draw: Any) -> dict[str, int]:
    """Widths by letter: heads, keys, values and slots from 1 on."""
    sizes = {"H": HEADS, "K": KEYS, "V": VALUES, "M": SLOTS}
    return {letter: draw(st.integers(1, 2 * size)) for letter, size in sizes.items()}


@st.composite
def tokens(draw: Any, rule: MemoryRule, sizes: dict[str, int], *, dtype: torch.dtype = torch.float64) -> Tokens:
    """Tokens of a rule: any length, batch and seed; gates touch the ends of their ranges."""
    full, count = full_widths(rule, sizes), draw(lengths())
    return tokens_for(rule, full, count, seed=draw(st.integers(0, 10**6)), batch=draw(st.integers(1, 3)), dtype=dtype)


@st.composite
def masks(draw: Any, batch: int, count: int) -> torch.Tensor:
    """Write masks `[B, T]`."""
    random = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    share: float = draw(st.sampled_from([0.0, 0.3, 0.7, 1.0]))
    return torch.rand(batch, count, generator=random) < share
