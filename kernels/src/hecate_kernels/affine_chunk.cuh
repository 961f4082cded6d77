// What both directions of `affine` know about a chunk: sizes, loads, products of decays, the solve.
//
// Compile-time constants beside those of chunk_rows.cuh, 0 or 1: MOMENTUM, ERASE, INJECT. Equations: specs/forms/affine.md. Index 0 of `b`, `gam`, `h0` is the start of the chunk.
#pragma once

#include "chunk_rows.cuh"

// Coefficients of one chunk; tokens beyond the text are neutral.
struct Coefficients {
    float *keep, *erase, *write, *momentum, *inject;  // C each
    float *b, *gam, *h0;                              // C + 1: of M_0 in M_t, of S_0 in M_t, of S_0 in S_t
};

#define CARVE_COEFFICIENTS(arena, c)                   \
    HECATE_CARVE(arena, float, c##_per_token, 5 * C);  \
    HECATE_CARVE(arena, float, c##_starts, 3 * (C + 1)); \
    const Coefficients c{c##_per_token, c##_per_token + C, c##_per_token + 2 * C, c##_per_token + 3 * C, \
                         c##_per_token + 4 * C, c##_starts, c##_starts + C + 1, c##_starts + 2 * (C + 1)}

__device__ __forceinline__ void load_coefficients(const Coefficients& c, const float* keep, const float* erase,
                                                  const float* write, const float* momentum, const float* inject,
                                                  int first, int length) {
    for (int t = threadIdx.x; t < C; t += THREADS) {
        const bool there = first + t < length;
        c.keep[t] = there ? keep[first + t] : 1.0f;
        c.erase[t] = ERASE && there ? erase[first + t] : 0.0f;
        c.write[t] = there ? write[first + t] : 0.0f;
        c.momentum[t] = MOMENTUM && there ? momentum[first + t] : 1.0f;
        c.inject[t] = there ? (INJECT ? inject[first + t] : 1.0f) : 0.0f;
    }
}

// reach[t][i]: coefficient of u_i k_i^T in M_t; held[t][i]: in S_t (only with momentum). Lower triangular.
// One thread per column, products only: a decay of exactly 0 is as good as any other.
__device__ __forceinline__ void find_reach(const Coefficients& c, float* reach, float* held) {
    const int i = threadIdx.x;
    if (i < C) {
        float g = c.inject[i], h = 1.0f;
        reach[i * ld_c + i] = g;
        if (MOMENTUM) held[i * ld_c + i] = h;
        for (int t = i + 1; t < C; ++t) {
            g *= c.keep[t];
            if (MOMENTUM) {
                h *= c.momentum[t];
                g += c.inject[t] * h;
                held[t * ld_c + i] = h;
            }
            reach[t * ld_c + i] = g;
        }
    } else if (i == C) {
        float b = 1.0f, g = 0.0f, h = 1.0f;
        c.b[0] = b;
        c.gam[0] = g;
        c.h0[0] = h;
        for (int t = 0; t < C; ++t) {
            b *= c.keep[t];
            h *= c.momentum[t];
            g = c.keep[t] * g + c.inject[t] * h;
            c.b[t + 1] = b;
            c.gam[t + 1] = g;
            c.h0[t + 1] = h;
        }
    }
}

