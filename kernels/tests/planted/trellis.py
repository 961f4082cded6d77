"""Faults for the sources of the op `trellis`."""

# ruff: noqa: E501
from faults import AFTER, BEFORE, BLOCKS, DIVERGENT, OTHER, PAST, SIGN, STALE, Fault

SMALL = {"case": "silu, entries, T 63"}  # two chunks, two heads, two warps, padded slots, resting tokens
WHOLE = {"case": "ln-silu, slots, T 63"}  # the same with a map over all slots
FAR = {"case": "ln-silu, entries, T 36"}  # the store in global memory, two chunks
LOADS = "        stage(dy, answers, d_y, y_token, answered, first, length);"
SHARED = "            __syncthreads();\n            if (warp_of() == t % warps)\n                for (int p = 0; p < deep; ++p) {"

PLANTED = (
    Fault(AFTER, f"{LOADS}\n        __syncthreads();", LOADS, **SMALL),
    Fault(BEFORE, "            float* const part = shares + t % 2 * warps * wide;", "            float* const part = shares;", name="one buffer for two tokens", **SMALL),
    Fault(DIVERGENT, SHARED, SHARED.replace("__syncthreads", "if (!rests || threadIdx.x < 32) __syncthreads"), **SMALL),
    Fault(PAST, "*const sums = numbers + flip * 2 * warps;", "*const sums = numbers + (flip + 1) * 2 * warps;", **SMALL),
    Fault(SIGN, "share_number(sums + warps, -u * by_u)", "share_number(sums + warps, u * by_u)", **SMALL),
    Fault(STALE, "            if (!rests) {\n                load_held(s, at - threadIdx.x);", "            if (!rests) {", **SMALL),
    Fault(BLOCKS, "d_retain[token] = rests", "d_retain[first + t] = rests", **SMALL),
    Fault(AFTER, "        if (is_keeper()) all[kept_slot()] = z;\n        __syncthreads();", "        if (is_keeper()) all[kept_slot()] = z;", name="all slots", **WHOLE),
    Fault(OTHER, "X(there[i]) * h[i]; });", "h[i] + X(1.0f - there[i]); });", name="padded slots in a mean", file="slot_maps.cuh", **WHOLE),
    Fault(OTHER, "Slots d(far + held_floats)", "Slots d(far)", name="a far store and its gradient in one place", **FAR),
)  # fmt: skip
