// Atomics on the host, for the types that CUDA has them for. They are relaxed: they do not race with each other and
// order nothing else, unless fences stand around them (the runner's memory_order.hpp).
#pragma once

namespace hecate_host {

template <class T, class Change>
inline T atomic(Site site, T* address, Change change) {
    T seen;
    __atomic_load(address, &seen, __ATOMIC_RELAXED);
    T wanted = change(seen);
    while (!__atomic_compare_exchange(address, &seen, &wanted, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        wanted = change(seen);
    unsigned long long word = 0;
    __builtin_memcpy(&word, &seen, sizeof seen);
    atomic_done(site, address, word, true);
    return seen;
}

template <class T>
inline T exchange_if(Site site, T* address, T expected, T value) {
    const bool done = __atomic_compare_exchange(address, &expected, &value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    atomic_done(site, address, static_cast<unsigned long long>(expected), done);
    return expected;
}

}  // namespace hecate_host

// Scopes are those of the device: a narrower one that does not suffice is not seen.
#define HECATE_ATOMIC(word, type, result)                                                               \
    inline type word(type* address, type value, HECATE_CALLER) {                                        \
        return ::hecate_host::atomic({file, line}, address, [=](type seen) -> type { return result; }); \
    }
#define HECATE_ATOMIC_NAMES(word, type, result) \
    HECATE_ATOMIC(word, type, result)           \
    HECATE_ATOMIC(word##_block, type, result)   \
    HECATE_ATOMIC(word##_system, type, result)
#define HECATE_ATOMIC_INTEGERS(word, result) \
    HECATE_ATOMIC_NAMES(word, int, result)   \
    HECATE_ATOMIC_NAMES(word, unsigned, result)
#define HECATE_ATOMIC_WIDE(word, result) \
    HECATE_ATOMIC_INTEGERS(word, result) \
    HECATE_ATOMIC_NAMES(word, unsigned long long, result)
HECATE_ATOMIC_WIDE(atomicAdd, seen + value)
HECATE_ATOMIC_NAMES(atomicAdd, float, seen + value)
HECATE_ATOMIC_NAMES(atomicAdd, double, seen + value)
HECATE_ATOMIC_INTEGERS(atomicSub, seen - value)
HECATE_ATOMIC_WIDE(atomicExch, value)
HECATE_ATOMIC_NAMES(atomicExch, float, value)
HECATE_ATOMIC_WIDE(atomicMin, value < seen ? value : seen)
HECATE_ATOMIC_NAMES(atomicMin, long long, value < seen ? value : seen)
HECATE_ATOMIC_WIDE(atomicMax, value < seen ? seen : value)
HECATE_ATOMIC_NAMES(atomicMax, long long, value < seen ? seen : value)
HECATE_ATOMIC_WIDE(atomicAnd, seen & value)
HECATE_ATOMIC_WIDE(atomicOr, seen | value)
HECATE_ATOMIC_WIDE(atomicXor, seen ^ value)
HECATE_ATOMIC_NAMES(atomicInc, unsigned, seen >= value ? 0u : seen + 1u)
HECATE_ATOMIC_NAMES(atomicDec, unsigned, seen == 0u || seen > value ? value : seen - 1u)
#define HECATE_ATOMIC_CAS(word, type)                                              \
    inline type word(type* address, type expected, type value, HECATE_CALLER) {    \
        return ::hecate_host::exchange_if({file, line}, address, expected, value); \
    }
#define HECATE_ATOMIC_CAS_OF(type)           \
    HECATE_ATOMIC_CAS(atomicCAS, type)       \
    HECATE_ATOMIC_CAS(atomicCAS_block, type) \
    HECATE_ATOMIC_CAS(atomicCAS_system, type)
HECATE_ATOMIC_CAS_OF(int)
HECATE_ATOMIC_CAS_OF(unsigned)
HECATE_ATOMIC_CAS_OF(unsigned long long)
HECATE_ATOMIC_CAS_OF(unsigned short)
