"""Faults for the sources of the op `newton_schulz`."""

# ruff: noqa: E501
from faults import AFTER, BEFORE, BLOCKS, DIVERGENT, OTHER, PAST, SIGN, STALE, Fault

SMALL = {"case": "muon 3"}  # four matrices of 7 x 40: padded rows and columns, two tiles

PLANTED = (
    Fault(AFTER, "+ value; });\n        __syncthreads();\n        for (int i", "+ value; });\n        for (int i", **SMALL),
    Fault(BEFORE, "aside[i / tile * ld_t + i % tile];\n        __syncthreads();", "aside[i / tile * ld_t + i % tile];", **SMALL),
    Fault(DIVERGENT, "    bend(bent, gram, k);\n    __syncthreads();", "    bend(bent, gram, k);\n    if (threadIdx.x < 128) __syncthreads();", **SMALL),
    Fault(PAST, "HECATE_CARVE(arena, float, aside, V * ld_t);", "HECATE_CARVE(arena, float, aside, V * tile);", **SMALL),
    Fault(SIGN, "sum.template add<V, turned, rows>(back", "sum.template add<V, rows, rows>(back", name="a factor not transposed", **SMALL),
    Fault(STALE, "i + 1 < STEPS; ++i", "i + 2 < STEPS; ++i", **SMALL),
    Fault(BLOCKS, "space += (long long)blockIdx.x * workspace;", "", nth=1, **SMALL),
    Fault(OTHER, "to_float(matrix[i]) * along) / (norm", "to_float(matrix[i])) / (norm", name="forgotten norm", **SMALL),
)  # fmt: skip
