"""Sequences of unequal lengths, packed behind each other in one row: `cu_seqlens` as public kernels take it.

Each sequence becomes a row of its own, filled up with tokens that write nothing. Where a rule is affine such tokens
are neutral coefficients (keep 1, erase 0, write 0), so every sequence has exactly the result that it has alone
(specs/forms/affine.md), its own first state and its own last one. The work is that of the longest sequence in every
row: pack sequences of like lengths.
"""

from collections.abc import Mapping
from itertools import pairwise

import attrs
import torch

from hecate_core.errors import CompositionError, InputError
from hecate_core.forms import Affine, Refused
from hecate_core.protocols import MemoryRule, Strategy
from hecate_core.shapes import Bool, Float, Int, Tensor


@attrs.frozen
class Packed:
    """Where the tokens of N sequences lie in a packed row of T and in N rows of the longest length L."""

    rows: Int[Tensor, "N L"]  # packed place of every token; 0 where a sequence has ended
    there: Bool[Tensor, "N L"]
    places: Tensor  # int `[T]`: of the packed tokens among the N * L

    @classmethod
    def of(cls, cu_seqlens: Tensor, like: Float[Tensor, "1 H T K"]) -> "Packed":
        """From int `[N + 1]`, where each sequence begins and ends: 0, ascending, T; InputError for anything else.

        Costs no synchronisation where they are on the CPU.
        """
        if not isinstance(cu_seqlens, Tensor):
            raise InputError(f"cu_seqlens is a {type(cu_seqlens).__name__}; expected an int32 or int64 tensor [N + 1]")
        if not isinstance(like, Tensor) or like.dim() != 4:
            raise InputError("cu_seqlens: q is no tensor [1, H, T, K]; expected the packed sequences in one row")
        total = like.shape[2]
        if like.shape[0] != 1:
            raise InputError(
                f"cu_seqlens: q has {like.shape[0]} rows; expected one, with the sequences behind each other"
            )
        if cu_seqlens.dim() != 1 or cu_seqlens.numel() < 2 or cu_seqlens.dtype not in (torch.int32, torch.int64):
            raise InputError(
                f"cu_seqlens is {cu_seqlens.dtype} {list(cu_seqlens.shape)}; expected int32 or int64 [N + 1], N >= 1"
            )
        ends = cu_seqlens.tolist()
        lengths = [end - begin for begin, end in pairwise(ends)]
        if ends[0] != 0 or ends[-1] != total or min(lengths) < 0:
            raise InputError(f"cu_seqlens: {ends[0]} ... {ends[-1]}; expected ascending numbers from 0 to T = {total}")
        longest = max(lengths)
        token, first = torch.arange(longest), torch.tensor(ends[:-1]).unsqueeze(1)
        there = token < torch.tensor(lengths).unsqueeze(1)
        rows = torch.where(there, first + token, 0)
        places = there.flatten().nonzero().squeeze(1)
        return cls(*(one.to(like.device, non_blocking=True) for one in (rows, there, places)))

    def apart(self, one: Float[Tensor, "1 H T ..."]) -> Float[Tensor, "N H L ..."]:
        """Every sequence in a row of its own."""
        return one[0][:, self.rows].transpose(0, 1)

    def marks(self, one: Bool[Tensor, "1 T"]) -> Bool[Tensor, "N L"]:
        """Marks per token, False where a sequence has ended."""
        return one[0][self.rows] & self.there

    def together(self, one: Float[Tensor, "N H L V"]) -> Float[Tensor, "1 H T V"]:
        """The inverse of `apart`."""
        return one.transpose(0, 1).flatten(1, 2).index_select(1, self.places).unsqueeze(0)

    def every(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`apart` for all of them."""
        return {name: self.apart(one) for name, one in given.items()}


def demand_exact(rule: MemoryRule, strategy: Strategy) -> None:
    """Raises CompositionError where a token that writes nothing could change what later calls compute."""
    form = rule.offers(Affine)
    if isinstance(form, Refused):
        raise CompositionError(
            f'cu_seqlens: rule "{rule.name}" is not affine ({form.reason}); run its sequences one by one'
        )
    if form.gather is not None:
        raise CompositionError(
            f'cu_seqlens: rule "{rule.name}" looks back at earlier tokens; run its sequences one by one'
        )
    if not strategy.exact:
        raise CompositionError(
            f'cu_seqlens: strategy "{strategy.name}" depends on the position, which the sequences do not share; '
            'expected an exact one, such as "chunkwise"'
        )
