// What both directions of `affine_column` know about a chunk. A key channel has a decay of its own, so what
// stands between two tokens is a vector of products, formed by multiplying on, never by dividing.
// Compile-time constants beside those of chunk_rows.cuh: ERASE, 0 or 1. Equations: specs/forms/affine-column.md.
#pragma once

#include "chunk_rows.cuh"

static_assert(K <= THREADS, "one thread per channel");

constexpr int ld_f = K + 1;                 // rows of fp32 channels
constexpr int per_lane = (K + 31) / 32;     // channels of a lane where a warp works on all of them

// Decays and erase rates per token and channel; tokens beyond the text and channels beyond the head are neutral.
__device__ __forceinline__ void load_channels(float* keep, float* erase, float* write, const float* from_keep,
                                              const float* from_erase, const float* from_write, int first, int length) {
    for (int i = threadIdx.x; i < C * K; i += THREADS) {
        const int t = i / K, x = i % K;
        const bool there = first + t < length && x < HEAD_K;
        const long long at = (long long)(first + t) * HEAD_K + x;
        keep[t * ld_f + x] = there ? from_keep[at] : 1.0f;
        erase[t * ld_f + x] = ERASE && there ? from_erase[at] : 0.0f;
    }
    for (int t = threadIdx.x; t < C; t += THREADS) write[t] = first + t < length ? from_write[first + t] : 0.0f;
}

// Per channel: queries and erased keys as they see the chunk's first memory, keys as its end sees them, and
// what is left of the first memory at the end.
__device__ __forceinline__ void find_views(const E* keys, const E* queries, const float* keep, const float* erase,
                                           E* asked, E* erased, E* left, float* remains) {
    const int x = threadIdx.x;
    if (x >= K) return;
    float b = 1.0f;
    for (int t = 0; t < C; ++t) {
        erased[t * ld_k + x] = from_float<E>(erase[t * ld_f + x] * to_float(keys[t * ld_k + x]) * b);
        b *= keep[t * ld_f + x];
        asked[t * ld_k + x] = from_float<E>(to_float(queries[t * ld_k + x]) * b);
    }
    remains[x] = b;
    float after = 1.0f;
    for (int t = C - 1; t >= 0; --t) {
        left[t * ld_k + x] = from_float<E>(to_float(keys[t * ld_k + x]) * after);
        after *= keep[t * ld_f + x];
    }
}

// inside[t][i] = q_t . k_i and lower[t][i] = (erase_t k_t) . k_i, each through the decays in between. A warp
// takes a column i and carries k_i on from token to token.
__device__ __forceinline__ void find_scores(const E* keys, const E* queries, const float* keep, const float* erase,
                                            E* inside, float* lower) {
    const int lane = threadIdx.x % 32;
    for (int i = threadIdx.x / 32; i < C; i += THREADS / 32) {
        float carried[per_lane];
#pragma unroll
        for (int j = 0; j < per_lane; ++j) {
            const int x = lane + 32 * j;
            carried[j] = x < K ? to_float(keys[i * ld_k + x]) : 0.0f;
        }
        for (int t = lane; t < i; t += 32) inside[t * ld_e + i] = from_float<E>(0.0f);
        for (int t = i; t < C; ++t) {
            float seen = 0.0f, erased = 0.0f;
#pragma unroll
            for (int j = 0; j < per_lane; ++j) {
                const int x = lane + 32 * j;
                if (x >= K) continue;
                if (t > i) {
                    if (ERASE) erased += erase[t * ld_f + x] * to_float(keys[t * ld_k + x]) * carried[j];
                    carried[j] *= keep[t * ld_f + x];
                }
                seen += to_float(queries[t * ld_k + x]) * carried[j];
            }
            seen = warp_sum(seen);
            if (ERASE) erased = warp_sum(erased);
            if (lane == 0) {
                inside[t * ld_e + i] = from_float<E>(seen);
                if (ERASE) lower[t * ld_c + i] = erased;
            }
        }
    }
}
