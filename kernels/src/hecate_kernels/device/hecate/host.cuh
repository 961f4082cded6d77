// The words of hecate_device.cuh on the host: every synchronising word hands its source line to the runner.
#pragma once

// The special functions of C++17, which CUDA lacks, make up most of what compiling a small kernel costs.
#include <cstddef>
#undef _GLIBCXX_USE_STD_SPEC_FUNCS
#include <math.h>
#include <stdint.h>

#include "../../runner/runner.hpp"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) alignas(bytes)
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define warpSize 32
#define threadIdx (::hecate_host::current->thread)
#define blockIdx (::hecate_host::current->block)
#define blockDim (::hecate_host::current->block_dim)
#define gridDim (::hecate_host::current->grid_dim)

#define HECATE_SITE (::hecate_host::Site{__FILE__, __LINE__})
#define HECATE_SHARED(type, name, count)    \
    static char hecate_key_##name;          \
    type* const name = static_cast<type*>(  \
        ::hecate_host::shared_array(&hecate_key_##name, (count) * sizeof(type), #name, HECATE_SITE))
#define HECATE_ARENA(arena) unsigned arena = 0
#define HECATE_CARVE(arena, type, name, count) \
    type* const name = static_cast<type*>(::hecate_host::carve(&arena, (count) * sizeof(type), #name, HECATE_SITE))

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace hecate_host {

template <class To, class From>
inline To bits(From value) {
    static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
    To out;
    __builtin_memcpy(&out, &value, sizeof(To));
    return out;
}

template <class T>
inline T shuffle(Site site, unsigned mask, T value, unsigned source) {
    static_assert(sizeof(T) <= 32, "a shuffle carries at most 32 bytes");
    meet(site, Meeting::shuffle, mask, &value, sizeof(T));
    T out;
    take(site, source, &out, sizeof(T));
    return out;
}

inline unsigned lane() { return current->rank % 32; }

template <class T>
inline T shfl(Site site, unsigned mask, T value, int source, int width = 32) {
    return shuffle(site, mask, value, (lane() & ~(width - 1u)) | (static_cast<unsigned>(source) & (width - 1u)));
}

template <class T>
inline T shfl_xor(Site site, unsigned mask, T value, int with, int width = 32) {
    const unsigned source = lane() ^ static_cast<unsigned>(with);
    return shuffle(site, mask, value, source / width <= lane() / width ? source : lane());
}

template <class T>
inline T shfl_up(Site site, unsigned mask, T value, unsigned by, int width = 32) {
    const unsigned inside = lane() & (width - 1u);
    return shuffle(site, mask, value, inside >= by ? lane() - by : lane());
}

template <class T>
inline T shfl_down(Site site, unsigned mask, T value, unsigned by, int width = 32) {
    const unsigned inside = lane() & (width - 1u);
    return shuffle(site, mask, value, inside + by < static_cast<unsigned>(width) ? lane() + by : lane());
}

inline unsigned ballot(Site site, unsigned mask, int predicate) {
    meet(site, Meeting::vote, mask, &predicate, sizeof predicate);
    unsigned out = 0;
    const unsigned first = current->rank / 32 * 32, count = current->block_dim.x * current->block_dim.y * current->block_dim.z;
    for (unsigned other = 0; other < 32 && first + other < count; ++other) {
        if (!(mask >> other & 1)) continue;
        int theirs;
        take(site, other, &theirs, sizeof theirs);
        out |= theirs ? 1u << other : 0u;
    }
    return out;
}

inline void warp_sync(Site site, unsigned mask = ~0u) { meet(site, Meeting::sync, mask, nullptr, 0); }

inline void mma(Site site, bool half, float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    const unsigned words[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    meet(site, Meeting::mma, ~0u, words, sizeof words);
    multiply(half, d);
}

// Lane i receives of tile j the two numbers at row i/4, columns 2(i%4); transposed: rows and columns swapped.
template <bool Transposed, int Tiles>
inline void ldmatrix(Site site, unsigned (&r)[Tiles], const void* row) {
    if (lane() < 8 * Tiles) {
        if (reinterpret_cast<uintptr_t>(row) % 16)
            fail(site, "ldmatrix needs rows aligned to 16 bytes (thread %u)", current->rank);
        if (!in_shared(row, 16)) fail(site, "ldmatrix reads 16 bytes that are in no shared array (thread %u)", current->rank);
    }
    meet(site, Meeting::ldmatrix, ~0u, &row, sizeof row);
    for (unsigned tile = 0; tile < Tiles; ++tile) {
        const unsigned short* source;
        if (!Transposed) {
            take(site, tile * 8 + lane() / 4, &source, sizeof source);
            r[tile] = source[lane() % 4 * 2] | static_cast<unsigned>(source[lane() % 4 * 2 + 1]) << 16;
            continue;
        }
        take(site, tile * 8 + lane() % 4 * 2, &source, sizeof source);
        r[tile] = source[lane() / 4];
        take(site, tile * 8 + lane() % 4 * 2 + 1, &source, sizeof source);
        r[tile] |= static_cast<unsigned>(source[lane() / 4]) << 16;
    }
}

// From here to its wait a copy may read its source and write its target at any time. So both are accessed here, in
// instrumented code, and the target is poisoned: who still reads it gets NaN, and is a race.
inline void copy(Site site, void* to, const void* from, int bytes = 16) {
    Copy issued{to, from, bytes, site, {}};
    demand_copy(issued);
    unsigned char* target = static_cast<unsigned char*>(to);
    for (int i = 0; i < bytes; ++i) issued.seen[i] = static_cast<const unsigned char*>(from)[i];
    for (int i = 0; i < 16; ++i) target[i] = 0xFF;
    copy_later(issued);
}

// And here it arrives: a missing wait leaves poison, a late one is a race.
inline void copy_wait(unsigned groups_in_flight) {
    Copy due;
    while (copy_next(groups_in_flight, &due)) {
        const unsigned char* from = static_cast<const unsigned char*>(due.from);
        unsigned char* to = static_cast<unsigned char*>(due.to);
        for (int i = 0; i < 16; ++i) {
            if (to[i] != 0xFF) fail(due.site, "the target of cp.async is written before its wait (thread %u)", current->rank);
            if (i < due.bytes && from[i] != due.seen[i])
                fail(due.site, "the source of cp.async is written before its wait (thread %u)", current->rank);
        }
        for (int i = 0; i < 16; ++i) to[i] = i < due.bytes ? from[i] : 0;
    }
}

// Relaxed: atomics do not race with each other, but order nothing else.
template <class T, class Change>
inline T atomic(T* address, Change change) {
    T seen;
    __atomic_load(address, &seen, __ATOMIC_RELAXED);
    for (;;) {
        T wanted = change(seen);
        if (__atomic_compare_exchange(address, &seen, &wanted, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) return seen;
    }
}

}  // namespace hecate_host

#define __syncthreads() ::hecate_host::barrier(HECATE_SITE)
#define __syncwarp(...) ::hecate_host::warp_sync(HECATE_SITE, ##__VA_ARGS__)
#define __shfl_sync(...) ::hecate_host::shfl(HECATE_SITE, __VA_ARGS__)
#define __shfl_xor_sync(...) ::hecate_host::shfl_xor(HECATE_SITE, __VA_ARGS__)
#define __shfl_up_sync(...) ::hecate_host::shfl_up(HECATE_SITE, __VA_ARGS__)
#define __shfl_down_sync(...) ::hecate_host::shfl_down(HECATE_SITE, __VA_ARGS__)
#define __ballot_sync(...) ::hecate_host::ballot(HECATE_SITE, __VA_ARGS__)
#define __any_sync(...) (::hecate_host::ballot(HECATE_SITE, __VA_ARGS__) != 0)
#define __trap() ::hecate_host::fail(HECATE_SITE, "__trap() was reached (thread %u)", ::hecate_host::current->rank)
#define mma_bf16(...) ::hecate_host::mma(HECATE_SITE, false, __VA_ARGS__)
#define mma_f16(...) ::hecate_host::mma(HECATE_SITE, true, __VA_ARGS__)
#define ldmatrix_x4(...) ::hecate_host::ldmatrix<false, 4>(HECATE_SITE, __VA_ARGS__)
#define ldmatrix_x4_trans(...) ::hecate_host::ldmatrix<true, 4>(HECATE_SITE, __VA_ARGS__)
#define ldmatrix_x2(...) ::hecate_host::ldmatrix<false, 2>(HECATE_SITE, __VA_ARGS__)
#define ldmatrix_x2_trans(...) ::hecate_host::ldmatrix<true, 2>(HECATE_SITE, __VA_ARGS__)
#define cp_async_16(...) ::hecate_host::copy(HECATE_SITE, __VA_ARGS__)
inline void cp_async_commit() { ::hecate_host::copy_commit(); }
template <int InFlight>
inline void cp_async_wait() { ::hecate_host::copy_wait(InFlight); }

template <class T>
inline T atomicAdd(T* address, T value) {
    return ::hecate_host::atomic(address, [value](T seen) { return seen + value; });
}
template <class T>
inline T atomicMax(T* address, T value) {
    return ::hecate_host::atomic(address, [value](T seen) { return seen < value ? value : seen; });
}
template <class T>
inline T atomicExch(T* address, T value) {
    return ::hecate_host::atomic(address, [value](T) { return value; });
}
template <class T>
inline T atomicCAS(T* address, T expected, T value) {
    __atomic_compare_exchange(address, &expected, &value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}

template <class T>
inline T __ldg(const T* address) { return *address; }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline unsigned __float_as_uint(float x) { return ::hecate_host::bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return ::hecate_host::bits<float>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
#define HECATE_LESS_AND_MORE(type)                               \
    inline type min(type a, type b) { return a < b ? a : b; }    \
    inline type max(type a, type b) { return a < b ? b : a; }
HECATE_LESS_AND_MORE(int)
HECATE_LESS_AND_MORE(unsigned)
HECATE_LESS_AND_MORE(long long)
HECATE_LESS_AND_MORE(unsigned long long)
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

inline unsigned hecate_round_bf16(float x) {
    const unsigned word = __float_as_uint(x);
    if ((word & 0x7FFFFFFFu) > 0x7F800000u) return word >> 16 | 0x40u;
    return (word + 0x7FFFu + (word >> 16 & 1u)) >> 16;
}
inline unsigned pack_bf16(float low, float high) { return hecate_round_bf16(low) | hecate_round_bf16(high) << 16; }

inline unsigned hecate_round_f16(float x) {
    const unsigned word = __float_as_uint(x), sign = word >> 16 & 0x8000u;
    const float size = fabsf(x);
    if (!(size == size)) return sign | 0x7E00u;
    if (size >= 65520.0f) return sign | 0x7C00u;
    if (size < 6.103515625e-5f) return sign | static_cast<unsigned>(rintf(size * 16777216.0f));  // units of 2^-24
    const unsigned positive = word & 0x7FFFFFFFu;
    return sign | ((positive + 0xFFFu + (positive >> 13 & 1u)) - 0x38000000u) >> 13;
}
inline unsigned pack_f16(float low, float high) { return hecate_round_f16(low) | hecate_round_f16(high) << 16; }

inline float widen_f16(unsigned short word) {
    const unsigned sign = (word & 0x8000u) << 16, exponent = word >> 10 & 31u, fraction = word & 0x3FFu;
    if (exponent == 31) return __uint_as_float(sign | 0x7F800000u | fraction << 13);
    if (exponent) return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
    const float tiny = static_cast<float>(fraction) * 5.9604644775390625e-8f;
    return sign ? -tiny : tiny;
}
