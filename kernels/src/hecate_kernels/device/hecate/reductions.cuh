// Sums over the lanes of a warp and over a block; every lane receives the result.
#pragma once

__device__ __forceinline__ float warp_sum(float x) {
    for (int offset = 16; offset; offset >>= 1) x += __shfl_xor_sync(0xFFFFFFFFu, x, offset);
    return x;
}

// Running sum including this lane.
__device__ __forceinline__ float warp_prefix_sum(float x) {
    const int lane = threadIdx.x % 32;
    for (int offset = 1; offset < 32; offset <<= 1) {
        const float before = __shfl_up_sync(0xFFFFFFFFu, x, offset);
        if (lane >= offset) x += before;
    }
    return x;
}

// `scratch`: one float per warp, in shared memory; two barriers, so it may be reused at once.
__device__ __forceinline__ float block_sum(float x, float* scratch) {
    x = warp_sum(x);
    const int warps = (blockDim.x + 31) / 32;
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    float total = 0.0f;
    for (int i = 0; i < warps; ++i) total += scratch[i];
    __syncthreads();
    return total;
}
