// A stranger's op: running sums that forget, y_t = keep_t y_{t-1} + x_t, a row per block.
#include "hecate_device.cuh"

// (a, b) stands for y -> a y + b; later after earlier. Scans the block's pairs, first token first.
__device__ void scan_pairs(float& a, float& b, float* ends) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int offset = 1; offset < 32; offset <<= 1) {
        const float a0 = __shfl_up_sync(0xFFFFFFFFu, a, offset);
        const float b0 = __shfl_up_sync(0xFFFFFFFFu, b, offset);
        if (lane >= offset) {
            b = a * b0 + b;
            a = a * a0;
        }
    }
    if (lane == 31) {
        ends[2 * warp] = a;
        ends[2 * warp + 1] = b;
    }
    __syncthreads();
    for (int i = warp - 1; i >= 0; --i) {
        b = a * ends[2 * i + 1] + b;
        a = a * ends[2 * i];
    }
    __syncthreads();
}

extern "C" __global__ void ramp_forward(const float* x, const float* keep, float* y, int length) {
    HECATE_ARENA(arena);
    HECATE_CARVE(arena, float, tile, THREADS);
    const long row = (long)blockIdx.x * length;
    float carried = 0.0f;
    for (int start = 0; start < length; start += THREADS) {
        const int t = start + threadIdx.x;
        float a = t < length ? keep[row + t] : 1.0f, b = t < length ? x[row + t] : 0.0f;
        scan_pairs(a, b, tile);
        tile[threadIdx.x] = a * carried + b;
        __syncthreads();
        if (t < length) y[row + t] = tile[threadIdx.x];
        carried = tile[THREADS - 1];
        __syncthreads();
    }
}

// g_t = dy_t + keep_{t+1} g_{t+1}; dx_t = g_t; dkeep_t = g_t y_{t-1}. Time runs backwards.
extern "C" __global__ void ramp_backward(const float* keep, const float* y, const float* dy, float* dx, float* dkeep,
                                         int length) {
    HECATE_ARENA(arena);
    HECATE_CARVE(arena, float, tile, THREADS);
    const long row = (long)blockIdx.x * length;
    float carried = 0.0f;
    for (int start = 0; start < length; start += THREADS) {
        const int t = length - 1 - start - (int)threadIdx.x;
        float a = t >= 0 && t + 1 < length ? keep[row + t + 1] : 1.0f, b = t >= 0 ? dy[row + t] : 0.0f;
        scan_pairs(a, b, tile);
        tile[threadIdx.x] = a * carried + b;
        __syncthreads();
        if (t >= 0) {
            const float g = tile[threadIdx.x];
            dx[row + t] = g;
            dkeep[row + t] = t ? g * y[row + t - 1] : 0.0f;
        }
        carried = tile[THREADS - 1];
        __syncthreads();
    }
}
