// What both directions of `affine` know about a chunk: sizes, loads, products of decays, the solve.
//
// Compile-time constants: HEAD_K, HEAD_V, CHUNK, ROWS (rows of the memory per block), THREADS, ELEMENT
// (float or bf16), and 0 or 1: MOMENTUM, ERASE, INJECT. Rows of the memory do not see each other, so a
// block owns ROWS of them and walks the chunks; blockIdx.x counts row groups, blockIdx.y batch and head.
// Equations: specs/forms/affine.md. Index 0 of `b`, `gam`, `h0` is the start of the chunk.
#pragma once

#include "hecate/tiles.cuh"
#include "hecate/triangular.cuh"

using E = ELEMENT;

constexpr int C = CHUNK, R = ROWS;
constexpr int K = (HEAD_K + 15) / 16 * 16;  // padded with zeros
constexpr int pad = row_padding<E>;
constexpr int ld_k = K + pad, ld_r = R + pad, ld_e = C + pad;  // rows of operands
constexpr int ld_c = C + 1;                                     // rows of fp32 C x C matrices

constexpr bool narrow = sizeof(E) < 4;  // then what is kept in fp32 needs a copy to multiply with

static_assert(C % 16 == 0 && R % 16 == 0 && C < THREADS, "CHUNK and ROWS are multiples of 16");

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

// Tokens [first, first + C) of a [T, width] text into rows of length `ld`; zeros beyond text and width.
template <int Width, int Padded>
__device__ __forceinline__ void load_rows(E* to, int ld, const E* from, long long token_stride, int first, int length,
                                          int column = 0) {
    for (int i = threadIdx.x; i < C * Padded; i += THREADS) {
        const int t = i / Padded, x = i % Padded;
        const bool there = first + t < length && column + x < Width;
        to[t * ld + x] = there ? from[(first + t) * token_stride + column + x] : from_float<E>(0.0f);
    }
}

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

// What to multiply with instead of fp32 rows: their copy, or the rows themselves.
__device__ __forceinline__ bf16* operand(float*, bf16* copy) { return copy; }
__device__ __forceinline__ float* operand(float* kept, float*) { return kept; }

// The same for a C x C matrix; makes the copy.
__device__ __forceinline__ const float* as_operand(const float* matrix, float*) { return matrix; }
__device__ __forceinline__ const bf16* as_operand(const float* matrix, bf16* copy) {
    for (int i = threadIdx.x; i < C * C; i += THREADS) copy[i / C * ld_e + i % C] = from_float<bf16>(matrix[i / C * ld_c + i % C]);
    return copy;
}
constexpr int ld_inverse = sizeof(E) == 4 ? ld_c : ld_e;
