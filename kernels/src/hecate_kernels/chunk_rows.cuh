// Sizes, loads and sums that every chunked kernel needs; rows are tokens of a chunk.
//
// Compile-time constants: HEAD_K, HEAD_V, CHUNK, ROWS (rows of the memory per block), THREADS and ELEMENT
// (float or bf16). Rows of the memory do not see each other, so a block owns ROWS of them and walks the
// chunks; blockIdx.x counts row groups, blockIdx.y batch and head.
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
constexpr int ld_inverse = narrow ? ld_e : ld_c;

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

// What to multiply with instead of fp32 rows: their copy, or the rows themselves.
__device__ __forceinline__ bf16* operand(float*, bf16* copy) { return copy; }
__device__ __forceinline__ float* operand(float* kept, float*) { return kept; }

// The same for a C x C matrix; makes the copy.
__device__ __forceinline__ const float* as_operand(const float* matrix, float*) { return matrix; }
__device__ __forceinline__ const bf16* as_operand(const float* matrix, bf16* copy) {
    for (int i = threadIdx.x; i < C * C; i += THREADS)
        copy[i / C * ld_e + i % C] = from_float<bf16>(matrix[i / C * ld_c + i % C]);
    return copy;
}

// Sums of x(t, r) over r for every token; one warp per token, every lane gets the sum.
template <class Term, class Done>
__device__ __forceinline__ void row_sums(int width, Term term, Done done) {
    for (int t = threadIdx.x / 32; t < C; t += THREADS / 32) {
        float sum = 0.0f;
        for (int r = threadIdx.x % 32; r < width; r += 32) sum += term(t, r);
        sum = warp_sum(sum);
        if (threadIdx.x % 32 == 0) done(t, sum);
    }
}
