"""Faults for the sources of the op `decayed_linear`."""

# ruff: noqa: E501
from faults import AFTER, BEFORE, BLOCKS, DIVERGENT, OTHER, PAST, SIGN, STALE, Fault

CHUNK = {"case": "momentum, T 31"}
STEP = {"file": "decayed_step.cuh", "case": "momentum, T 1,"}

TILES = {"case": "momentum, T 9"}

PLANTED = (
    Fault(AFTER, "        __syncthreads();\n        if (!tile)\n            for (int j = 0; j < PARTS; ++j) scale_rows",
          "        if (!tile)\n            for (int j = 0; j < PARTS; ++j) scale_rows", **CHUNK),
    Fault(BEFORE, "    __syncthreads();\n    for (int tile = 0; tile < tiles; ++tile) {\n        const int column",
          "    for (int tile = 0; tile < tiles; ++tile) {\n        const int column", **CHUNK),
    Fault(OTHER, "if (tile) __syncthreads();", "", name="a tile overwritten while it is read", **TILES),
    Fault(OTHER, "if (tile) __syncthreads();", "", nth=2, name="backward, a tile overwritten while it is read", **TILES),
    Fault(STALE, "if (tile) score += scores", "if (tile > 1) score += scores", name="scores of the first tile forgotten", **TILES),
    Fault(DIVERGENT, "        sum = block_sum(sum, warps);", "        if (threadIdx.x < 128) sum = block_sum(sum, warps);", **CHUNK),
    Fault(PAST, "        to[at] = from_float<E>(to_float(from[at]) * shares", "        to[at + ld_r] = from_float<E>(to_float(from[at]) * shares", **CHUNK),
    Fault(SIGN, "value += carry[i * PARTS + j] * d_end", "value -= carry[i * PARTS + j] * d_end", **CHUNK),
    Fault(STALE, "for (int i = 0; i < PARTS; ++i) wrote +=", "for (int i = 0; i < 1; ++i) wrote +=", **CHUNK),
    Fault(BLOCKS, "dq[(part + t) * HEAD_K + column + c]", "dq[t * HEAD_K + column + c]", **CHUNK),
    Fault(OTHER, "if (t < count) d_ends", "d_ends", name="write past an output", **CHUNK),
    Fault(STALE, "for (int l = 0; l < PARTS; ++l) wrote +=", "for (int l = 0; l < 1; ++l) wrote +=", name="step, old momentum forgotten", **STEP),
    Fault(OTHER, "if (lane == 0)", "if (lane >= 0)", name="step, every lane writes", **STEP),
    Fault(OTHER, "if (at >= HEAD_K) continue;", "if (at >= HEAD_K) return;", name="step, lanes leave before the sum", **STEP),
    Fault(OTHER, "reach[g] * score", "reach[0] * score", name="step, reach of another head", **STEP),
)  # fmt: skip
