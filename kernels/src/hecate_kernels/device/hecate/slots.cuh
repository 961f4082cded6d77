// A memory of slots in the registers of one block: a warp owns whole slots, its lanes the entries of each. Where they
// are too many (FAR is 1), the same numbers stand in the block's workspace in global memory, in reach of its caches.
//
// Sums over a slot's entries stay inside a warp; sums over slots go through shared memory and a barrier.
// Compile-time constants: SLOTS, WIDTH (entries of a slot), PER_WARP (slots of a warp, a power of two up to 32),
// THREADS (32 per warp), CHUNK (tokens staged at once), FAR (0 by itself) and ELEMENT (float or bf16). What lies beyond
// SLOTS and WIDTH is zero in registers and shared memory and is never stored.
#pragma once

#ifndef FAR
#define FAR 0
#endif

using E = ELEMENT;

constexpr int C = CHUNK, warps = THREADS / 32;
constexpr int each = PER_WARP;             // slots of a warp
constexpr int deep = (WIDTH + 31) / 32;    // entries of a lane
constexpr int wide = deep * 32;
constexpr int keepers = 32 / each;         // lanes that keep the numbers of one slot
constexpr int at_once = FAR ? 1 : each;    // slots of a warp that a loop takes together

static_assert(warps * each >= SLOTS && (each & (each - 1)) == 0 && each <= 32, "PER_WARP fits");

constexpr int held_floats = each * deep * THREADS;  // as threads hold them, THREADS apart

#if FAR
struct Slots {
    struct Slot {
        float* mine;
        __device__ __forceinline__ float& operator[](int p) const { return mine[p * THREADS]; }
    };
    struct Rows {
        float* mine;
        __device__ __forceinline__ Slot operator[](int j) const { return Slot{mine + j * deep * THREADS}; }
    } at;
    __device__ __forceinline__ explicit Slots(float* space) : at{space + threadIdx.x} {}
};
#else
struct Slots {
    float at[each][deep];
    __device__ __forceinline__ explicit Slots(float* = nullptr) {}
};
#endif

__device__ __forceinline__ int lane_of() { return threadIdx.x % 32; }
__device__ __forceinline__ int warp_of() { return threadIdx.x / 32; }
__device__ __forceinline__ int slot_of(int j) { return warp_of() * each + j; }        // the j-th slot of this warp
__device__ __forceinline__ int kept_slot() { return slot_of(lane_of() / keepers); }   // the one this lane keeps
__device__ __forceinline__ bool is_keeper() { return lane_of() % keepers == 0 && kept_slot() < SLOTS; }

// From and to `[WIDTH, SLOTS]` or `[SLOTS, WIDTH]`: steps between slots and between entries.
template <int SlotStep, int EntryStep>
__device__ __forceinline__ void load_slots(Slots& s, const float* from) {
#pragma unroll at_once
    for (int j = 0; j < each; ++j)
#pragma unroll
        for (int p = 0; p < deep; ++p) {
            const int slot = slot_of(j), entry = lane_of() + 32 * p;
            s.at[j][p] = slot < SLOTS && entry < WIDTH ? from[slot * SlotStep + entry * EntryStep] : 0.0f;
        }
}

template <int SlotStep, int EntryStep>
__device__ __forceinline__ void store_slots(const Slots& s, float* to) {
#pragma unroll at_once
    for (int j = 0; j < each; ++j)
#pragma unroll
        for (int p = 0; p < deep; ++p) {
            const int slot = slot_of(j), entry = lane_of() + 32 * p;
            if (slot < SLOTS && entry < WIDTH) to[slot * SlotStep + entry * EntryStep] = s.at[j][p];
        }
}

// As threads hold them; only the thread that wrote them reads them.
__device__ __forceinline__ void load_held(Slots& s, const float* from) {
#pragma unroll (at_once * deep)
    for (int i = 0; i < each * deep; ++i) s.at[i / deep][i % deep] = from[i * THREADS + threadIdx.x];
}

__device__ __forceinline__ void store_held(const Slots& s, float* to) {
#pragma unroll (at_once * deep)
    for (int i = 0; i < each * deep; ++i) to[i * THREADS + threadIdx.x] = s.at[i / deep][i % deep];
}

// Tokens [first, first + C) of a [T, width] text as fp32 rows of length `padded`; zeros beyond text and width.
__device__ __forceinline__ void stage(float* to, int padded, const E* from, long long step, int width, int first, int length) {
    for (int i = threadIdx.x; i < C * padded; i += THREADS) {
        const int t = i / padded, x = i % padded;
        to[i] = first + t < length && x < width ? to_float(from[(first + t) * step + x]) : 0.0f;
    }
}

// Of every token one number; `rest` beyond the text and where nothing is given.
__device__ __forceinline__ void stage_gate(float* to, bool given, const float* from, float rest, int first, int length) {
    for (int t = threadIdx.x; t < C; t += THREADS) to[t] = given && first + t < length ? from[first + t] : rest;
}

// Halves of `Count` sums are exchanged between lanes `Offset` apart, until each lane has one of them.
template <int Count, int Offset>
__device__ __forceinline__ void fold(float* x) {
    if constexpr (Offset > 0) {
        if constexpr (Count > 1) {
            const bool upper = threadIdx.x & Offset;
#pragma unroll
            for (int i = 0; i < Count / 2; ++i) {
                const float sent = upper ? x[i] : x[i + Count / 2], kept = upper ? x[i + Count / 2] : x[i];
                x[i] = kept + __shfl_xor_sync(0xFFFFFFFFu, sent, Offset);
            }
            fold<Count / 2, Offset / 2>(x);
        } else {
            x[0] += __shfl_xor_sync(0xFFFFFFFFu, x[0], Offset);
            fold<1, Offset / 2>(x);
        }
    }
}

// The sum of term(j, p) over the entries of each slot; a lane gets that of the slot it keeps.
#if FAR
template <class Term>
__device__ __forceinline__ float over_entries(Term term) {
    float kept = 0.0f;
#pragma unroll at_once
    for (int j = 0; j < each; ++j) {
        float sum = 0.0f;
#pragma unroll
        for (int p = 0; p < deep; ++p) sum += term(j, p);
        sum = warp_sum(sum);
        if (lane_of() / keepers == j) kept = sum;
    }
    return kept;
}
#else
template <class Term>
__device__ __forceinline__ float over_entries(Term term) {
    float x[each];
#pragma unroll at_once
    for (int j = 0; j < each; ++j) {
        x[j] = 0.0f;
#pragma unroll
        for (int p = 0; p < deep; ++p) x[j] += term(j, p);
    }
    fold<each, 16>(x);
    return x[0];
}
#endif

// What every lane knows of its kept slot, for all lanes of the warp: hand[j] afterwards. One row per warp.
__device__ __forceinline__ void hand_round(float* hand, float kept) {
    __syncwarp();
    if (lane_of() % keepers == 0) hand[lane_of() / keepers] = kept;
    __syncwarp();
}

// The warp's share of a sum of term(j, p) over all slots, for every entry; the block's barrier follows.
template <class Term>
__device__ __forceinline__ void share_entries(float* shares, Term term) {
#pragma unroll
    for (int p = 0; p < deep; ++p) {
        float sum = 0.0f;
#pragma unroll at_once
        for (int j = 0; j < each; ++j) sum += term(j, p);
        shares[warp_of() * wide + lane_of() + 32 * p] = sum;
    }
}

// Behind the barrier: the sum itself at this lane's p-th entry.
__device__ __forceinline__ float shared_entry(const float* shares, int p) {
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < warps; ++w) sum += shares[w * wide + lane_of() + 32 * p];
    return sum;
}

// The warp's share of a sum over slots of what their keepers know, times `keepers`, which divides exactly.
__device__ __forceinline__ void share_number(float* shares, float kept) {
    const float sum = warp_sum(kept) / keepers;
    if (lane_of() == 0) shares[warp_of()] = sum;
}

__device__ __forceinline__ float shared_number(const float* shares) {
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < warps; ++w) sum += shares[w];
    return sum;
}
