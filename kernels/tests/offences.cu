// What CUDA does not forgive, one offence per case: each has to be found at the line that is marked with its name.
#include "hecate_device.cuh"

struct __align__(16) Four {
    float x, y, z, w;
};

__device__ void helper_with_an_arena(float* out) {
    HECATE_ARENA(again);
    HECATE_CARVE(again, float, helped, 16);
    if (threadIdx.x < 16) helped[threadIdx.x] = -1.0f;
    out[threadIdx.x] = 0.0f;
}

// 64 threads. `in` holds 64 floats, `out` 128; dynamic shared memory: 1,024 bytes.
extern "C" __global__ void offend(const float* in, float* out, int offence) {
    const int t = threadIdx.x;
    HECATE_SHARED(float, tile, 256);
    HECATE_SHARED(unsigned short, half, 512);
    HECATE_ARENA(arena);
    for (int i = t; i < 256; i += 64) tile[i] = (float)i;
    for (int i = t; i < 512; i += 64) half[i] = (unsigned short)i;
    __syncthreads();
    if (offence == 0) {
        out[t] = tile[t ^ 32];
        if (t < 16) cp_async_16(tile + 4 * t, in + 4 * t);  // overwrites what others read
        cp_async_commit();
        cp_async_wait<0>();
    }
    if (offence == 1) {
        if (t < 16) cp_async_16(tile + 4 * t, in + 4 * t);
        cp_async_commit();
        if (t < 32) cp_async_wait<0>();
        out[t] = tile[t];  // no barrier after the wait
        cp_async_wait<0>();
    }
    if (offence == 2) {
        if (t == 0) cp_async_16(tile, in);  // written in flight
        cp_async_commit();
        __syncthreads();
        if (t == 1) tile[2] = 5.0f;
        __syncthreads();
        cp_async_wait<0>();
    }
    if (offence == 3) {
        if (t == 0) cp_async_16(tile, out);  // source written in flight
        cp_async_commit();
        __syncthreads();
        if (t == 1) out[3] = 5.0f;
        __syncthreads();
        cp_async_wait<0>();
    }
    if (offence == 4) {
        if (t == 0) cp_async_16(out, in);  // into global memory
        cp_async_commit();
        cp_async_wait<0>();
    }
    if (offence == 5) {
        cp_async_16(tile + 4 * t + 1, in);  // copy misaligned
        cp_async_commit();
        cp_async_wait<0>();
    }
    if (offence == 6) {
        const Four loaded = *reinterpret_cast<const Four*>(in + t % 15 * 4 + 1);  // load misaligned
        out[t] = loaded.x;
    }
    if (offence == 7) {
        *reinterpret_cast<Four*>(tile + 2) = Four{1.0f, 2.0f, 3.0f, 4.0f};  // store misaligned
        out[t] = tile[t];
    }
    if (offence == 8) {
        unsigned r[4];
        ldmatrix_x4(r, half + t % 32 * 9);  // rows misaligned
        out[t] = (float)r[0];
    }
    if (offence == 9) {
        unsigned r[2];
        ldmatrix_x2(r, in);  // rows in global memory
        out[t] = (float)r[0];
    }
    if (offence == 10) {
        HECATE_CARVE(arena, float, own, 64);
        own[t] = (float)t;
        __syncthreads();
        helper_with_an_arena(out);
        out[t] = own[t];
    }
    if (offence == 11) {
        if (t < 32) {
            HECATE_CARVE(arena, float, left, 64);
            left[t] = 1.0f;
        } else {
            HECATE_CARVE(arena, float, right, 32);  // in both branches
            right[t - 32] = 2.0f;
        }
        out[t] = 0.0f;
    }
    if (offence == 12) {
        float* mine;
        if (t < 32) {
            HECATE_CARVE(arena, float, left, 64);
            mine = left;
        } else {
            HECATE_CARVE(arena, float, right, 64);
            mine = right;
        }
        mine[t % 32] = (float)t;  // the same place
        out[t] = mine[t % 32];
    }
    if (offence == 13) {
        HECATE_SHARED(float, large, 12 * 1024);  // too much static
        large[t] = 1.0f;
    }
    if (offence == 14) {
        Four* const four = reinterpret_cast<Four*>(out);
        four[t % 16] = Four{1.0f, 2.0f, 3.0f, 4.0f};  // output misaligned
    }
    if (offence == 15) __trap();  // trapped
    if (offence == 16) {  // none: two names for one place, in turn
        HECATE_ARENA(second);
        HECATE_CARVE(arena, float, early, 64);
        HECATE_CARVE(second, float, late, 64);
        early[t] = 1.0f;
        __syncthreads();
        late[t] = 2.0f;
        __syncthreads();
        out[t] = early[63 - t];
    }
}
