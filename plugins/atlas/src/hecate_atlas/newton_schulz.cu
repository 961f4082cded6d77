// The op `newton_schulz`: steps towards the nearest semi-orthogonal matrix, forward and backward. A block walks
// matrices of VALUES x KEYS (VALUES <= KEYS): what is squared is the small side.
//
// Compile-time constants: VALUES, KEYS, STEPS, THREADS, ELEMENT, FORWARD, X_SHARED (the iterate lies in shared memory,
// forward only) and SQUARES_SHARED (so do the VALUES x VALUES matrices), else both in the block's workspace, which
// other blocks do not see. Sums in fp32. Equations: specs/knobs/newton-schulz.md.
#include "hecate_device.cuh"

#include "hecate/tiles.cuh"

using E = ELEMENT;

constexpr int V = (VALUES + 15) / 16 * 16, tile = 32;     // padded with zeros; columns at a time
constexpr int K = (KEYS + tile - 1) / tile * tile;
constexpr int ld_x = K + 1, ld_v = V + 1, ld_t = tile + 1;
constexpr int iterate = V * ld_x, square = V * ld_v;      // floats of one
constexpr int squares = FORWARD ? 2 : 4;
constexpr int iterates = FORWARD ? 1 : STEPS + 1;         // backward: all of them, and the gradient
constexpr int workspace = (X_SHARED ? 0 : iterates * iterate) + (SQUARES_SHARED ? 0 : squares * square);
constexpr float norm_floor = 1e-7f;

struct Coefficients {
    float a, b, c;
};

__device__ __forceinline__ float norm_of(const E* from, float* warps) {
    float sum = 0.0f;
    for (int i = threadIdx.x; i < VALUES * KEYS; i += THREADS) sum += to_float(from[i]) * to_float(from[i]);
    return sqrtf(block_sum(sum, warps));
}

__device__ __forceinline__ void load_scaled(float* to, const E* from, float scale) {
    for (int i = threadIdx.x; i < V * K; i += THREADS) {
        const int v = i / K, x = i % K;
        to[v * ld_x + x] = v < VALUES && x < KEYS ? to_float(from[v * KEYS + x]) * scale : 0.0f;
    }
}

// product = left right^T over all columns.
__device__ __forceinline__ void over_columns(float* product, const float* left, const float* right) {
    compute<float, V, V>(
        [&](auto& sum) {
            for (int x = 0; x < K; x += tile) sum.template add<tile, rows, turned>(left + x, ld_x, right + x, ld_x);
        },
        [&](int i, int j, float value) { product[i * ld_v + j] = value; });
}

// bent = b A + c A A: what a step multiplies with, beside a.
__device__ __forceinline__ void bend(float* bent, const float* gram, Coefficients k) {
    compute<float, V, V>([&](auto& sum) { sum.template add<V, rows, rows>(gram, ld_v, gram, ld_v); },
                         [&](int i, int j, float value) { bent[i * ld_v + j] = k.b * gram[i * ld_v + j] + k.c * value; });
}

// to = a base + terms, a few columns at a time, so that `to` may be what the terms are made of. Ends with a barrier.
template <class Terms>
__device__ __forceinline__ void advance(float* to, const float* base, float a, float* aside, Terms terms) {
    for (int x = 0; x < K; x += tile) {
        compute<float, V, tile>([&](auto& sum) { terms(sum, x); },
                                [&](int v, int j, float value) { aside[v * ld_t + j] = a * base[v * ld_x + x + j] + value; });
        __syncthreads();
        for (int i = threadIdx.x; i < V * tile; i += THREADS) to[i / tile * ld_x + x + i % tile] = aside[i / tile * ld_t + i % tile];
        __syncthreads();
    }
}

// X <- a X + (b A + c A A) X with A = X X^T. Starts after a barrier and ends with one.
__device__ __forceinline__ void step(float* to, const float* from, float* gram, float* bent, float* aside, Coefficients k) {
    over_columns(gram, from, from);
    __syncthreads();
    bend(bent, gram, k);
    __syncthreads();
    advance(to, from, k.a, aside, [&](auto& sum, int x) { sum.template add<V, rows, rows>(bent, ld_v, from + x, ld_x); });
}

#if FORWARD
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    newton_schulz_forward(const E* matrices, E* results, float* space, float a, float b, float c, int count) {
    HECATE_ARENA(arena);
    HECATE_CARVE(arena, float, aside, V * ld_t);
    HECATE_CARVE(arena, float, warps, THREADS / 32);
    HECATE_CARVE(arena, float, near_squares, SQUARES_SHARED * squares * square + 1);
    HECATE_CARVE(arena, float, near_x, X_SHARED * iterate + 1);
    space += (long long)blockIdx.x * workspace;
    float* const x = X_SHARED ? near_x : space;
    float* const gram = SQUARES_SHARED ? near_squares : space + (X_SHARED ? 0 : iterate);
    const Coefficients k{a, b, c};
    for (int g = blockIdx.x; g < count; g += gridDim.x) {
        const long long at = (long long)g * VALUES * KEYS;
        load_scaled(x, matrices + at, 1.0f / (norm_of(matrices + at, warps) + norm_floor));
        __syncthreads();
        for (int i = 0; i < STEPS; ++i) step(x, x, gram, gram + square, aside, k);
        for (int i = threadIdx.x; i < VALUES * KEYS; i += THREADS)
            results[at + i] = from_float<E>(x[i / KEYS * ld_x + i % KEYS]);
        __syncthreads();
    }
}
#else

// Of a step, with d the adjoint of its result: R = d X^T, P = b R + c (R A + A R),
// d <- a d + (b A + c A A) d + (P + P^T) X.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    newton_schulz_backward(const E* matrices, const E* d_results, E* d_matrices, float* space, float a, float b,
                           float c, int count) {
    HECATE_ARENA(arena);
    HECATE_CARVE(arena, float, aside, V * ld_t);
    HECATE_CARVE(arena, float, warps, THREADS / 32);
    HECATE_CARVE(arena, float, near_squares, SQUARES_SHARED * squares * square + 1);
    space += (long long)blockIdx.x * workspace;
    float* const gram = SQUARES_SHARED ? near_squares : space + iterates * iterate;
    float *const bent = gram + square, *const answer = bent + square, *const back = answer + square;
    float* const d = space + STEPS * iterate;
    const Coefficients k{a, b, c};
    for (int g = blockIdx.x; g < count; g += gridDim.x) {
        const E *const matrix = matrices + (long long)g * VALUES * KEYS, *const d_result = d_results + (long long)g * VALUES * KEYS;
        const float norm = norm_of(matrix, warps);
        load_scaled(space, matrix, 1.0f / (norm + norm_floor));
        load_scaled(d, d_result, 1.0f);
        __syncthreads();
        for (int i = 0; i + 1 < STEPS; ++i) step(space + (i + 1) * iterate, space + i * iterate, gram, bent, aside, k);
        for (int i = STEPS - 1; i >= 0; --i) {
            const float* const x = space + i * iterate;
            over_columns(gram, x, x);
            over_columns(answer, d, x);
            __syncthreads();
            bend(bent, gram, k);
            compute<float, V, V>(
                [&](auto& sum) {
                    sum.template add<V, rows, rows>(answer, ld_v, gram, ld_v);
                    sum.template add<V, rows, rows>(gram, ld_v, answer, ld_v);
                },
                [&](int m, int n, float value) { back[m * ld_v + n] = k.b * answer[m * ld_v + n] + k.c * value; });
            __syncthreads();
            advance(d, d, k.a, aside, [&](auto& sum, int at) {
                sum.template add<V, rows, rows>(bent, ld_v, d + at, ld_x);
                sum.template add<V, rows, rows>(back, ld_v, x + at, ld_x);
                sum.template add<V, turned, rows>(back, ld_v, x + at, ld_x);
            });
        }
        float along = 0.0f;
        for (int i = threadIdx.x; i < VALUES * KEYS; i += THREADS)
            along += to_float(matrix[i]) * d[i / KEYS * ld_x + i % KEYS];
        along = block_sum(along, warps) / (fmaxf(norm, 1e-30f) * (norm + norm_floor));
        for (int i = threadIdx.x; i < VALUES * KEYS; i += THREADS)
            d_matrices[(long long)g * VALUES * KEYS + i] =
                from_float<E>((d[i / KEYS * ld_x + i % KEYS] - to_float(matrix[i]) * along) / (norm + norm_floor));
        __syncthreads();
    }
}
#endif
