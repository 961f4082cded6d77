// CUDA's words as a stranger writes them: PUT(what)  // = what thread 0 of 64 gets, on a GPU and on the host.
#include "hecate_device.cuh"

__constant__ float table[4] = {1.0f, 2.0f, 4.0f, 8.0f};
__device__ int doubled(int x) { return 2 * x; }

#define PUT(value)                                        \
    {                                                     \
        const double found = static_cast<double>(value);  \
        if (threadIdx.x == 0) out[at] = found;            \
        ++at;                                             \
    }

// What an atomic returns, times ten, and what it leaves behind.
#define CHANGED(cell, start, change) (cell = start, before = static_cast<double>(change), 10.0 * before + cell)

extern "C" __global__ void __launch_bounds__(64) words(const float* __restrict__ in, int* counts, double* out) {
    const int t = threadIdx.x;
    const unsigned all = 0xFFFFFFFFu;
    int at = 0;
    const dim3 block = blockDim;
    const uint3 where = threadIdx;
    PUT(block.x * block.y * block.z + gridDim.x)  // = 65
    PUT(dim3(3, 2).z + where.y)                   // = 1
    PUT(warpSize)                                 // = 32
    PUT(table[3])                                 // = 8

    PUT(__ballot_sync(all, t % 2))             // = 2863311530
    PUT(__any_sync(all, t == 3))               // = 1
    PUT(__all_sync(all, t >= 0))               // = 1
    PUT(__all_sync(all, t != 3))               // = 0
    PUT((__activemask() & 1u))                 // = 1
    PUT(__reduce_add_sync(all, t % 32))        // = 496
    PUT(__reduce_min_sync(all, 5 - t % 32))    // = -26
    PUT(__reduce_max_sync(all, unsigned(t % 32)))  // = 31
    PUT(__reduce_or_sync(all, 1u << t % 8))    // = 255
    PUT(__reduce_and_sync(all, 6u | t % 2))    // = 6
    PUT(__reduce_xor_sync(all, t % 32 < 3 ? 1u : 0u))  // = 1
    PUT(__match_any_sync(all, t % 16))         // = 65537
    int same = -1;
    PUT(__match_all_sync(all, 7, &same))       // = 4294967295
    PUT(same)                                  // = 1
    PUT(__shfl_sync(all, t * 1.5, 2))          // = 3
    PUT(__syncthreads_count(t < 40))           // = 40
    PUT(__syncthreads_or(t == 63))             // = 1
    PUT(__syncthreads_or(t == 64))             // = 0
    PUT(__syncthreads_and(t < 64))             // = 1
    PUT(__syncthreads_and(t < 63))             // = 0

    int n;
    unsigned u;
    unsigned long long w;
    long long s;
    float f;
    double d, before;
    PUT(CHANGED(n, 5, atomicAdd(&n, 3)))      // = 58
    PUT(CHANGED(n, 5, atomicSub(&n, 3)))      // = 52
    PUT(CHANGED(n, 5, atomicExch(&n, 3)))     // = 53
    PUT(CHANGED(n, 5, atomicMin(&n, -3)))     // = 47
    PUT(CHANGED(n, 5, atomicMax(&n, 7)))      // = 57
    PUT(CHANGED(n, 5, atomicCAS(&n, 5, 9)))   // = 59
    PUT(CHANGED(n, 5, atomicCAS(&n, 4, 9)))   // = 55
    PUT(CHANGED(n, 5, atomicAnd(&n, 4)))      // = 54
    PUT(CHANGED(u, 6, atomicAnd(&u, 3)))      // = 62
    PUT(CHANGED(u, 6, atomicOr(&u, 1)))       // = 67
    PUT(CHANGED(u, 6, atomicXor(&u, 3u)))     // = 65
    PUT(CHANGED(u, 6, atomicInc(&u, 6u)))     // = 60
    PUT(CHANGED(u, 0, atomicDec(&u, 6u)))     // = 6
    PUT(CHANGED(u, 1, atomicSub(&u, 2u)))     // = 4294967305
    PUT(CHANGED(u, 1, atomicMax(&u, 4000000000u)))  // = 4000000010
    PUT(CHANGED(u, 1, atomicMin(&u, 0u)))     // = 10
    PUT(CHANGED(u, 1, atomicExch(&u, 2u)))    // = 12
    PUT(CHANGED(u, 1, atomicCAS(&u, 1u, 3u)))   // = 13
    PUT(CHANGED(w, 8, atomicAdd(&w, 1ull << 40)))  // = 1099511627864
    PUT(CHANGED(w, 9, atomicMin(&w, 2ull)))   // = 92
    PUT(CHANGED(w, 9, atomicMax(&w, 12ull)))  // = 102
    PUT(CHANGED(w, 9, atomicCAS(&w, 9ull, 1ull)))  // = 91
    PUT(CHANGED(w, 9, atomicExch(&w, 1ull)))  // = 91
    PUT(CHANGED(w, 9, atomicOr(&w, 2ull)))    // = 101
    PUT(CHANGED(s, -9, atomicMin(&s, -12ll)))  // = -102
    PUT(CHANGED(f, 0.5f, atomicAdd(&f, 1)))   // = 6.5
    PUT(CHANGED(f, 0.5f, atomicExch(&f, 2)))  // = 7
    PUT(CHANGED(d, 0.5, atomicAdd(&d, 1)))    // = 6.5
    __syncthreads();
    if (t == 0) atomicAdd_block(counts, 0);
    atomicAdd(counts, 1);
    __threadfence();
    __threadfence_block();
    __threadfence_system();
    __nanosleep(20);
    __syncthreads();
    PUT(atomicAdd(counts, 0))  // = 64

    PUT(__fmaf_rn(2.0f, 3.0f, 4.0f))   // = 10
    const float more = in[1] + 1.1920929e-7f;  // its square, rounded, is 1 + 2^-22
    PUT(__fmul_rn(more, more) - 1.0000002f)          // = 0
    const float most = in[1] + 2.3841858e-7f;  // and of this one 1 + 2^-21
    PUT(__fadd_rn(most * most, -1.0000005f))         // = 0
    PUT(__fmaf_rn(more, more, -1.0000002f) > 0.0f)   // = 1
    PUT(__fsub_rn(3.0f, 1.0f))         // = 2
    PUT(__fdiv_rn(3.0f, 2.0f))         // = 1.5
    PUT(__fsqrt_rn(9.0f))              // = 3
    PUT(__dadd_rn(1.0, 2.0) + __dmul_rn(2.0, 4.0) + __fma_rn(1.0, 2.0, 3.0))  // = 16
    PUT(__saturatef(1.5f) + __saturatef(-1.0f) + __saturatef(0.25f))          // = 1.25
    PUT(__fdividef(3.0f, 2.0f))        // ~ 1.5
    PUT(__sinf(0.5f))                  // ~ 0.4794255
    PUT(__cosf(0.5f))                  // ~ 0.8775826
    PUT(__tanf(0.5f))                  // ~ 0.5463025
    PUT(__expf(0.5f))                  // ~ 1.6487213
    PUT(__exp10f(0.5f))                // ~ 3.1622777
    PUT(__logf(2.0f))                  // ~ 0.6931472
    PUT(__log2f(8.0f))                 // ~ 3
    PUT(__log10f(1000.0f))             // ~ 3
    PUT(__powf(2.0f, 3.0f))            // ~ 8
    PUT(rsqrtf(4.0f) + __frsqrt_rn(4.0f) + rsqrt(4.0))  // ~ 1.5
    PUT(__frcp_rn(4.0f))               // = 0.25
    PUT(__int_as_float(0x40000000) + __uint_as_float(0x40000000u))  // = 4
    PUT(__float_as_int(2.0f) == int(__float_as_uint(2.0f)))         // = 1
    PUT(__longlong_as_double(__double_as_longlong(2.5)))            // = 2.5
    PUT(__float2int_rn(2.5f) + 10 * __float2int_rz(-2.5f) + 100 * __float2int_rd(-2.5f) + 1000 * __float2int_ru(2.5f))  // = 2682
    PUT(__float2int_rz(1e30f))         // = 2147483647
    PUT(__float2uint_rn(-1.0f) + __float2uint_rz(3.9f))  // = 3
    PUT(__popc(255u) + 100 * __popcll(0xFFFFFFFFFFull))  // = 4008
    PUT(__clz(1) + 100 * __clzll(1ll))  // = 6331
    PUT(__ffs(8) + 100 * __ffsll(1ll << 40))  // = 4104
    PUT(__brev(1u))                    // = 2147483648
    PUT(__brevll(1ull) == 1ull << 63)  // = 1
    PUT(__umulhi(0x80000000u, 6u) + __mulhi(-2, 3))  // = 2
    PUT(__byte_perm(0x44332211u, 0x88776655u, 0x0051u))  // = 286352930
    PUT(__funnelshift_l(0x80000000u, 1u, 1) + __funnelshift_r(0u, 1u, 31))  // = 5
    PUT(min(3, 5u) + max(2.5f, 1.0) + min(7ll, 9ll) + max(1l, 2l))  // = 14.5

    PUT(__ldg(in + 1) + __ldcs(in + 2) + __ldcg(in + 3))  // = 6
    __stcs(counts + 1 + t, 7);
    __stcg(counts + 1 + t, doubled(counts[1 + t]));
    PUT(counts[1])                     // = 14
    float3 three = make_float3(1.0f, 2.0f, 3.0f);
    const int3 whole3 = make_int3(1, 2, 3);
    const ushort4 shorts = make_ushort4(1, 2, 3, 4);
    const uint4 words4 = make_uint4(1u, 2u, 3u, 4u);
    const double2 wide2 = make_double2(1.0, 2.0);
    const uchar4 bytes = *reinterpret_cast<const uchar4*>(&words4.y);
    PUT(three.x + three.y + three.z + whole3.z + shorts.w + words4.y + wide2.y)  // = 17
    PUT(sizeof(float3) + sizeof(int2) + sizeof(short4) + alignof(uint4) + alignof(uchar4) + alignof(double2) + bytes.x)  // = 66
    const long long early = clock64();
#pragma unroll 4
    for (int i = 0; i < 4; ++i) three.x += in[i];
    PUT(three.x)                       // = 7
    PUT(clock64() >= early)           // = 1
    assert(three.x == 7.0f);
    if (t == 0) printf("%s %d\n", "printed", at);
}
