// What orders memory and what does not, a case each, in blocks of 64 threads.
#include "hecate_device.cuh"

__device__ void publish(float* data, int* flag, bool fence_before, bool fence_after) {
    if (fence_before) __threadfence();
    data[0] = 5.0f;
    if (fence_after) __threadfence();
    atomicExch(flag, 1);
}

__device__ float await(const float* data, int* flag, bool fence) {
    while (atomicAdd(flag, 0) == 0) {
    }
    if (fence) __threadfence();
    return data[0];
}

extern "C" __global__ void order(float* data, int* flags, float* out, int which) {
    const int t = threadIdx.x, lane = t % 32;
    const unsigned all = 0xFFFFFFFFu;
    HECATE_SHARED(float, tile, 64);
    if (which < 8) tile[t] = (float)t;
    if (which == 0) __syncwarp();
    if (which == 1) out[64 + t] = __shfl_sync(all, (float)t, 0);
    if (which == 2) out[64 + t] = (float)__ballot_sync(all, 1);
    if (which == 3 && lane < 16) __syncwarp(0xFFFFu);
    if (which == 3 && lane >= 16) __syncwarp(0xFFFF0000u);
    if (which < 4) out[t] = tile[t ^ 17];
    if (which >= 10 && which < 14) {  // 10: as it should be; one of the fences missing, or both at the wrong place
        if (t == 0) publish(data, flags, which == 12, which == 10 || which == 11);
        if (t == 40) out[0] = await(data, flags, which == 10 || which == 12 || which == 13);
    }
    if (which == 20 || which == 21) {  // a volatile flag, with and without fences
        volatile int* const flag = flags;
        if (t == 0) {
            data[0] = 5.0f;
            if (which == 20) __threadfence_block();
            *flag = 1;
        }
        if (t == 40) {
            while (*flag == 0) __nanosleep(10);
            if (which == 20) __threadfence_block();
            out[0] = data[0];
        }
    }
    if (which == 22) {  // volatile on both sides: not ordered, and no race
        volatile float* const cell = data;
        if (t == 0) *cell = 5.0f;
        if (t == 40) out[0] = *cell >= 0.0f;
    }
    if (which == 23) {  // volatile on one side only
        if (t == 0) data[0] = 5.0f;
        if (t == 40) out[0] = *static_cast<volatile float*>(data);  // the volatile side
    }
    if (which == 30 || which == 31) {  // the last block sums up; 31: fences that reach no other block
        HECATE_SHARED(int, last, 1);
        if (t == 0) {
            data[blockIdx.x] = (float)blockIdx.x;
            which == 30 ? __threadfence() : __threadfence_block();
            last[0] = atomicAdd(flags, 1) == (int)gridDim.x - 1;
            which == 30 ? __threadfence() : __threadfence_block();
        }
        __syncthreads();
        if (t == 0 && last[0])
            for (int i = 0; i < (int)gridDim.x; ++i) out[0] += data[i];
    }
    if (which == 32) {  // a fence and a flag of the next thread, in both blocks: the write itself is ordered by nothing
        if (blockIdx.x == 0 && t == 0) data[0] = 5.0f;
        if (blockIdx.x == 0 && t == 1) publish(data + 1, flags, false, true);
        if (blockIdx.x == 1 && t == 1) out[0] = await(data + 1, flags, true);
        if (blockIdx.x == 1 && t == 0) __nanosleep(10);
        if (blockIdx.x == 1 && t == 0) out[1] = data[0];
    }
    if (which == 40) {  // a lock around a sum, taken by every thread of every block
        while (atomicCAS(flags, 0, 1) != 0) {
        }
        __threadfence();
        data[0] += 1.0f;
        __threadfence();
        atomicExch(flags, 0);
    }
    if (which == 50 && t == 40) {  // waits for a block that runs later here
        while (atomicAdd(flags, 0) == 0) {  // for ever
        }
    }
    if (which == 50 && blockIdx.x == 1) atomicExch(flags, 1);
}
