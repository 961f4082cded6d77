"""Faults for the sources of the op `affine`."""

# ruff: noqa: E501
from faults import AFTER, BEFORE, BLOCKS, DIVERGENT, OTHER, PAST, SIGN, STALE, Fault

CHUNKED = "titans, T 63, head 16"  # two chunks
BACKWARD = {"file": "affine_backward.cuh", "case": CHUNKED}
STEP = {"file": "affine_step.cuh", "case": "masked titans, T 1,"}

PLANTED = (
    Fault(AFTER, "c, keep + text, erase + text, write + text, momentum + text, inject + text, first, length);\n        __syncthreads();",
          "c, keep + text, erase + text, write + text, momentum + text, inject + text, first, length);", case=CHUNKED),
    Fault(BEFORE, "s[at] = c.h0[C] * s[at] + wrote;\n                             });\n        __syncthreads();",
          "s[at] = c.h0[C] * s[at] + wrote;\n                             });", case=CHUNKED),
    Fault(DIVERGENT, "        find_reach(c, reach, held);\n        __syncthreads();",
          "        find_reach(c, reach, held);\n        if (threadIdx.x < 128) __syncthreads();", case=CHUNKED),
    Fault(PAST, "values[t * ld_r + r] = from_float", "values[(t + 1) * ld_r + r] = from_float", case=CHUNKED),
    Fault(STALE, "m[at] = c.b[C] * m[at]", "m[at] = c.b[C - 1] * m[at]", case=CHUNKED),
    Fault(BLOCKS, "y[(text + first + t) * HEAD_V", "y[(first + t) * HEAD_V", case=CHUNKED, name="forward"),
    Fault(OTHER, "k_token, first, length);", "k_token, first, length + 64);", case=CHUNKED, name="read past an input"),
    Fault(SIGN, "seen ? -x * kk", "seen ? x * kk", **BACKWARD),
    Fault(AFTER, "d.by_h0[C] = end_h0;\n        }\n        __syncthreads();", "d.by_h0[C] = end_h0;\n        }", name="adjoint", **BACKWARD),
    Fault(BEFORE, "if (!narrow) __syncthreads();", "", name="operands", **BACKWARD),
    Fault(STALE, "dm[at] = c.b[C] * dm[at] + sum;", "dm[at] = c.b[C] * dm[at];", name="adjoint", **BACKWARD),
    Fault(SIGN, "if (t) d.by_b[t] -=", "if (t) d.by_b[t] +=", name="of a decay", **BACKWARD),
    Fault(BLOCKS, "dq[(part + first + t)", "dq[(first + t)", name="backward", **BACKWARD),
    Fault(OTHER, "d_surprise[at] = ds", "d_surprise[at + HEAD_V * HEAD_K] = ds", name="write past an output", **BACKWARD),
    Fault(STALE, "s += momentum[blockIdx.y] * surprise", "s += surprise", name="step, old momentum forgotten", **STEP),
    Fault(OTHER, "if (row >= HEAD_V) return;", "if (row > HEAD_V) return;", name="step, row of another", **STEP),
    Fault(OTHER, "if (x >= HEAD_K) continue;", "if (x >= HEAD_K) return;", name="step, lanes leave before the sum", **STEP),
    Fault(STALE, "read += m[j] *", "read += key[j] *", name="step, read before the write", **STEP),
)  # fmt: skip
