"""Faults for the sources of the op `lattice`."""

# ruff: noqa: E501
from faults import AFTER, BEFORE, BLOCKS, DIVERGENT, OTHER, PAST, SIGN, STALE, Fault

SMALL = {"case": "decode, T 63, 6 slots"}  # two chunks, two heads, two warps, padded slots, retain, resting tokens
FAR = {"case": "decode, T 36, 6 slots"}  # slots in global memory, two chunks
LOADS = "load_texts(c, q, k, v, q_token, k_token, v_token, write + text, retain + text, due + text, first, length);"

PLANTED = (
    Fault(AFTER, f"        {LOADS}\n        __syncthreads();", f"        {LOADS}", name="loads", **SMALL),
    Fault(AFTER, "            __syncthreads();\n            if (warp_of() == t % warps)", "            if (warp_of() == t % warps)", name="sums", **SMALL),
    Fault(BEFORE, "answers + (flip ^= 1) * warps * wide", "answers + 0 * flip", name="the other half of a pair of buffers", **SMALL),
    Fault(DIVERGENT, "            if (RETAIN) share_number(sums + warps, by_slot);\n            __syncthreads();",
          "            if (RETAIN) share_number(sums + warps, by_slot);\n            if (threadIdx.x < 32) __syncthreads();", **SMALL),
    Fault(PAST, "share_answer(answers + (2 + (t + 1) % 2)", "share_answer(answers + (3 + (t + 1) % 2)", **SMALL),
    Fault(SIGN, "if (decode) d_key -=", "if (decode) d_key +=", **SMALL),
    Fault(STALE, "        if (n) {\n            load_held", "        if (n > 1) {\n            load_held", **SMALL),
    Fault(OTHER, "floor_of_length ? outward : 0.0f", "floor_of_length ? 0.0f : 0.0f", name="forgotten retraction", **SMALL),
    Fault(BLOCKS, "d_write[token] = shared_number", "d_write[first + t] = shared_number", **SMALL),
    Fault(OTHER, "if (is_keeper()) dk[token * SLOTS + kept_slot()] = from_float<E>(d_key)",
          "if (lane_of() % keepers == 0) dk[token * SLOTS + kept_slot()] = from_float<E>(d_key)", name="write past an output", **SMALL),
    Fault(BLOCKS, "(chunks - 1 + FAR)", "(chunks - 1)", name="far slots of the next head", **FAR),
)  # fmt: skip
