// The inverse of a unit lower triangular matrix in shared memory, by blocks of 16. Needs THREADS.
#pragma once

// inverse = (I + lower)^-1, C x C, both with row length `ld`; the diagonal of `lower` and what is above
// it are not read. `scratch` holds C * C / 4 floats. Starts after a barrier and ends with one.
template <int C>
__device__ __forceinline__ void unit_lower_inverse(const float* lower, float* inverse, int ld, float* scratch) {
    const int thread = threadIdx.x;
    for (int i = thread; i < C * C; i += THREADS)
        if (i % C / 16 > i / C / 16) inverse[i / C * ld + i % C] = 0.0f;
    if (thread < C) {  // column `thread` of its diagonal block, by substitution
        const int first = thread / 16 * 16, column = thread % 16;
        float x[16];
#pragma unroll
        for (int t = 0; t < 16; ++t) {
            float sum = t == column ? 1.0f : 0.0f;
#pragma unroll
            for (int i = 0; i < t; ++i) sum -= lower[(first + t) * ld + first + i] * x[i];
            x[t] = sum;
            inverse[(first + t) * ld + thread] = sum;
        }
    }
#pragma unroll
    for (int size = 16; size < C; size *= 2) {  // pairs of blocks: -inverse_22 lower_21 inverse_11
        const int all = C / (2 * size) * size * size;
        __syncthreads();
        for (int i = thread; i < all; i += THREADS) {
            const int at = i / (size * size) * 2 * size, row = i / size % size, column = i % size;
            float sum = 0.0f;
            for (int k = column; k < size; ++k) sum += lower[(at + size + row) * ld + at + k] * inverse[(at + k) * ld + at + column];
            scratch[i] = sum;
        }
        __syncthreads();
        for (int i = thread; i < all; i += THREADS) {
            const int at = i / (size * size) * 2 * size, row = i / size % size, column = i % size;
            float sum = 0.0f;
            for (int k = 0; k <= row; ++k) sum += inverse[(at + size + row) * ld + at + size + k] * scratch[i - (row - k) * size];
            inverse[(at + size + row) * ld + at + column] = -sum;
        }
    }
    __syncthreads();
}
