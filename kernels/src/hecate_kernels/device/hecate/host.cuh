// The words of hecate_device.cuh on the host: every synchronising word hands its source line to the runner.
#pragma once

#include "host_headers.cuh"
extern "C" {  // the few of their headers' words that CUDA has: parsing those costs as much as a small kernel
int printf(const char*, ...);
void* memcpy(void*, const void*, size_t) noexcept;
void* memmove(void*, const void*, size_t) noexcept;
void* memset(void*, int, size_t) noexcept;
long clock() noexcept;
}

#include "../../runner/runner.hpp"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) alignas(bytes)
#define __constant__ static
#define __launch_bounds__(...)
#define __maxnreg__(...)
#define __grid_constant__
#define __restrict__ __restrict
#define warpSize 32
#define threadIdx (::hecate_host::current->thread)
#define blockIdx (::hecate_host::current->block)
#define blockDim (::hecate_host::current->block_dim)
#define gridDim (::hecate_host::current->grid_dim)

#define HECATE_SITE (::hecate_host::Site{__FILE__, __LINE__})
#define HECATE_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()  // where a function is called
#define HECATE_SHARED(type, name, count)    \
    static char hecate_key_##name;          \
    type* const name = static_cast<type*>(  \
        ::hecate_host::shared_array(&hecate_key_##name, (count) * sizeof(type), #name, HECATE_SITE))
#define HECATE_ARENA(arena) unsigned arena = 0
#define HECATE_CARVE(arena, type, name, count) \
    type* const name = static_cast<type*>(::hecate_host::carve(&arena, (count) * sizeof(type), #name, HECATE_SITE))

#include "host_vectors.cuh"

namespace hecate_host {

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

// The lanes of `mask` that are there, and what each of them brought to a meeting of all.
template <class T, class Take>
inline unsigned gather(Site site, Meeting kind, unsigned mask, T value, Take each) {
    meet(site, kind, mask, &value, sizeof value);
    const unsigned first = current->rank / 32 * 32, count = current->block_dim.x * current->block_dim.y * current->block_dim.z;
    unsigned present = 0;
    for (unsigned other = 0; other < 32 && first + other < count; ++other) {
        if (!(mask >> other & 1)) continue;
        T theirs;
        take(site, other, &theirs, sizeof theirs);
        present |= 1u << other;
        each(other, theirs);
    }
    return present;
}

inline unsigned ballot(Site site, unsigned mask, int predicate) {
    unsigned out = 0;
    gather(site, Meeting::vote, mask, predicate, [&](unsigned lane, int theirs) { out |= theirs ? 1u << lane : 0u; });
    return out;
}

inline int all(Site site, unsigned mask, int predicate) {
    bool out = true;
    gather(site, Meeting::vote, mask, predicate, [&](unsigned, int theirs) { out &= theirs != 0; });
    return out;
}

template <class T>
inline unsigned match_any(Site site, unsigned mask, T value) {
    unsigned out = 0;
    gather(site, Meeting::vote, mask, value, [&](unsigned lane, T theirs) { out |= theirs == value ? 1u << lane : 0u; });
    return out;
}

template <class T>
inline unsigned match_all(Site site, unsigned mask, T value, int* all_equal) {
    *all_equal = 1;
    const unsigned present = gather(site, Meeting::vote, mask, value, [&](unsigned, T theirs) { *all_equal &= theirs == value; });
    return *all_equal ? present : 0;
}

template <class T, class Join>
inline T reduce(Site site, unsigned mask, T value, Join join) {
    static_assert(sizeof(T) == 4 && T(1) / 2 == 0, "__reduce_*_sync takes int and unsigned");
    T out{};
    bool first = true;
    gather(site, Meeting::vote, mask, value, [&](unsigned, T theirs) { out = first ? theirs : join(out, theirs), first = false; });
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

}  // namespace hecate_host

#define __syncthreads() (static_cast<void>(::hecate_host::barrier(HECATE_SITE)))
#define __syncthreads_count(vote) (static_cast<int>(::hecate_host::barrier(HECATE_SITE, (vote) != 0)))
#define __syncthreads_or(vote) (static_cast<int>(::hecate_host::barrier(HECATE_SITE, (vote) != 0) != 0))
#define __syncthreads_and(vote) (static_cast<int>(::hecate_host::barrier(HECATE_SITE, (vote) == 0) == 0))
#define __syncwarp(...) ::hecate_host::warp_sync(HECATE_SITE, ##__VA_ARGS__)
#define __shfl_sync(...) ::hecate_host::shfl(HECATE_SITE, __VA_ARGS__)
#define __shfl_xor_sync(...) ::hecate_host::shfl_xor(HECATE_SITE, __VA_ARGS__)
#define __shfl_up_sync(...) ::hecate_host::shfl_up(HECATE_SITE, __VA_ARGS__)
#define __shfl_down_sync(...) ::hecate_host::shfl_down(HECATE_SITE, __VA_ARGS__)
#define __ballot_sync(...) ::hecate_host::ballot(HECATE_SITE, __VA_ARGS__)
#define __any_sync(...) (static_cast<int>(::hecate_host::ballot(HECATE_SITE, __VA_ARGS__) != 0))
#define __all_sync(...) ::hecate_host::all(HECATE_SITE, __VA_ARGS__)
#define __match_any_sync(...) ::hecate_host::match_any(HECATE_SITE, __VA_ARGS__)
#define __match_all_sync(...) ::hecate_host::match_all(HECATE_SITE, __VA_ARGS__)
#define HECATE_REDUCE(joined, ...) ::hecate_host::reduce(HECATE_SITE, __VA_ARGS__, [](auto a, auto b) { return joined; })
#define __reduce_add_sync(...) HECATE_REDUCE(a + b, __VA_ARGS__)
#define __reduce_min_sync(...) HECATE_REDUCE((a < b ? a : b), __VA_ARGS__)
#define __reduce_max_sync(...) HECATE_REDUCE((a < b ? b : a), __VA_ARGS__)
#define __reduce_and_sync(...) HECATE_REDUCE((a & b), __VA_ARGS__)
#define __reduce_or_sync(...) HECATE_REDUCE((a | b), __VA_ARGS__)
#define __reduce_xor_sync(...) HECATE_REDUCE((a ^ b), __VA_ARGS__)
#define __trap() ::hecate_host::fail(HECATE_SITE, "__trap() was reached (thread %u)", ::hecate_host::current->rank)
#undef assert
#define assert(...)                                                                                         \
    ((__VA_ARGS__) ? (void)0                                                                                \
                   : ::hecate_host::fail(HECATE_SITE, "assert(%s) does not hold (thread %u)", #__VA_ARGS__, \
                                         ::hecate_host::current->rank))
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

// Nothing says which lanes run together, so each is told that it runs alone.
inline unsigned __activemask() { return 1u << ::hecate_host::lane(); }
inline void __threadfence(HECATE_CALLER) { ::hecate_host::fence({file, line}, true); }
inline void __threadfence_system(HECATE_CALLER) { ::hecate_host::fence({file, line}, true); }
inline void __threadfence_block(HECATE_CALLER) { ::hecate_host::fence({file, line}, false); }
inline void __nanosleep(unsigned, HECATE_CALLER) { ::hecate_host::pause({file, line}); }
inline long long clock64() { return static_cast<long long>(__builtin_ia32_rdtsc()); }
#define HECATE_LOAD(word) \
    template <class T>    \
    inline T word(const T* address) { return *address; }
HECATE_LOAD(__ldg)
HECATE_LOAD(__ldca)
HECATE_LOAD(__ldcg)
HECATE_LOAD(__ldcs)
HECATE_LOAD(__ldlu)
HECATE_LOAD(__ldcv)
#define HECATE_STORE(word)                           \
    template <class T, class V>                      \
    inline void word(T* address, V value) { *address = value; }
HECATE_STORE(__stwb)
HECATE_STORE(__stcg)
HECATE_STORE(__stcs)
HECATE_STORE(__stwt)

#include "host_atomics.cuh"
#include "host_arithmetic.cuh"

// Words without a meaning here end the compilation by name, not by what they happen to be in C++.
#define HECATE_REFUSED(text) _Pragma(#text)
#define __shared__ HECATE_REFUSED(GCC error "__shared__ has no meaning on the host: use HECATE_SHARED, or HECATE_ARENA and HECATE_CARVE")
#define __managed__ HECATE_REFUSED(GCC error "__managed__ has no meaning on the host: pass the memory as an argument")
#define __cluster_dims__(...) HECATE_REFUSED(GCC error "__cluster_dims__ has no meaning on the host, which runs one block at a time")
#define asm HECATE_REFUSED(GCC error "inline PTX does not run on the host: use the words of hecate_device.cuh, or put it under __CUDACC__")
