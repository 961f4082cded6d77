"""Faults for the sources of the op `affine_column`."""

# ruff: noqa: E501
from faults import AFTER, BEFORE, BLOCKS, DIVERGENT, OTHER, PAST, SIGN, STALE, Fault

CHUNKED = {"case": "kda, T 63, head 16"}  # four chunks
WAYS = {"file": "column_chunk.cuh", **CHUNKED}
STEP = {"file": "column_step.cuh", "case": "kda, T 1,"}

PLANTED = (
    Fault(AFTER, "        __syncthreads();\n        find_views", "        find_views", **CHUNKED),
    Fault(BEFORE, "remains[x] * m[r * ld_f + x] + wrote; });\n        __syncthreads();", "remains[x] * m[r * ld_f + x] + wrote; });", **CHUNKED),
    Fault(BEFORE, "if (!narrow) __syncthreads();", "", name="operand", **CHUNKED),
    Fault(DIVERGENT, "        const E* const solve = ERASE ? as_operand(inverse, inverse_copy) : inverse_copy;\n        __syncthreads();",
          "        const E* const solve = ERASE ? as_operand(inverse, inverse_copy) : inverse_copy;\n"
          "        if (threadIdx.x % 64 < 32) __syncthreads();", **CHUNKED),
    Fault(PAST, "u[t * ld_r + r] = from_float<E>(x);", "u[(t + 1) * ld_r + r] = from_float<E>(x);", **CHUNKED),
    Fault(STALE, "remains[x] * m[r * ld_f + x] + wrote", "m[r * ld_f + x] + wrote", **CHUNKED),
    Fault(SIGN, "d_right[t * ld_r + r] = from_float<E>(x);\n                                 pulled",
          "d_right[t * ld_r + r] = from_float<E>(-x);\n                                 pulled", **CHUNKED),
    Fault(SIGN, "carried += by_read[t * ld_f + x]", "carried -= by_read[t * ld_f + x]", name="of a read", **CHUNKED),
    Fault(BLOCKS, "(part + first) * HEAD_K, length - first", "first * HEAD_K, length - first", **CHUNKED),
    Fault(OTHER, "if (t >= count) continue;", "if (t >= count + 1) continue;", name="write past an output", **CHUNKED),
    Fault(STALE, "carried[j] *= keep[t * ld_f + x];", "carried[j] *= keep[i * ld_f + x];", name="decay of the wrong token", **WAYS),
    Fault(DIVERGENT, "seen = warp_sum(seen);", "if (lane < 16) seen = warp_sum(seen);", name="lanes out of step", **WAYS),
    Fault(STALE, "keep[channel + x] * m[j]", "m[j]", name="step, decay forgotten", **STEP),
    Fault(OTHER, "if (lane == 0)", "if (lane >= 0)", name="step, every lane writes", **STEP),
    Fault(OTHER, "if (x >= HEAD_K) continue;", "if (x >= HEAD_K) return;", name="step, lanes leave before the sum", **STEP),
    Fault(OTHER, "(long long)blockIdx.y * HEAD_K;", "(long long)head * HEAD_V + 1;", name="step, channel of another head", **STEP),
)  # fmt: skip
