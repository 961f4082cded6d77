// CUDA's own arithmetic on the host. What an approximate word (__expf) gives is the exact function's value here.
#pragma once

namespace hecate_host {

template <class To, class From>
inline To bits(From value) {
    static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
    To out;
    __builtin_memcpy(&out, &value, sizeof(To));
    return out;
}

// A value that the compiler cannot fuse with what it came from: __fadd_rn and its kin are never part of an FMA.
template <class T>
inline T alone(T value) {
    __asm__("" : "+x"(value));
    return value;
}

// CUDA's conversions end at the ends of the type; NaN becomes 0.
template <class To, class From>
inline To saturated(From value, To least, To most) {
    if (!(value == value)) return 0;
    if (value <= static_cast<From>(least)) return least;
    return value >= static_cast<From>(most) ? most : static_cast<To>(value);
}
inline int as_int(float value) { return saturated(value, -0x7FFFFFFF - 1, 0x7FFFFFFF); }
inline unsigned as_unsigned(float value) { return saturated(value, 0u, ~0u); }

}  // namespace hecate_host

inline float __expf(float x) { return expf(x); }
inline float __exp10f(float x) { return powf(10.0f, x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __log10f(float x) { return log10f(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __tanf(float x) { return tanf(x); }
inline void __sincosf(float x, float* s, float* c) { *s = sinf(x), *c = cosf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float fdividef(float x, float y) { return x / y; }
inline float __saturatef(float x) { return fminf(fmaxf(x, 0.0f), 1.0f); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float rcbrtf(float x) { return 1.0f / cbrtf(x); }
inline float __fadd_rn(float x, float y) { return ::hecate_host::alone(::hecate_host::alone(x) + ::hecate_host::alone(y)); }
inline float __fsub_rn(float x, float y) { return ::hecate_host::alone(::hecate_host::alone(x) - ::hecate_host::alone(y)); }
inline float __fmul_rn(float x, float y) { return ::hecate_host::alone(x * y); }
inline double __dadd_rn(double x, double y) { return ::hecate_host::alone(::hecate_host::alone(x) + ::hecate_host::alone(y)); }
inline double __dmul_rn(double x, double y) { return ::hecate_host::alone(x * y); }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return static_cast<float>(1.0 / sqrt(static_cast<double>(x))); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline double __fma_rn(double x, double y, double z) { return fma(x, y, z); }

inline unsigned __float_as_uint(float x) { return ::hecate_host::bits<unsigned>(x); }
inline int __float_as_int(float x) { return ::hecate_host::bits<int>(x); }
inline float __uint_as_float(unsigned x) { return ::hecate_host::bits<float>(x); }
inline float __int_as_float(int x) { return ::hecate_host::bits<float>(x); }
inline long long __double_as_longlong(double x) { return ::hecate_host::bits<long long>(x); }
inline double __longlong_as_double(long long x) { return ::hecate_host::bits<double>(x); }
inline int __float2int_rn(float x) { return ::hecate_host::as_int(rintf(x)); }
inline int __float2int_rz(float x) { return ::hecate_host::as_int(truncf(x)); }
inline int __float2int_rd(float x) { return ::hecate_host::as_int(floorf(x)); }
inline int __float2int_ru(float x) { return ::hecate_host::as_int(ceilf(x)); }
inline unsigned __float2uint_rn(float x) { return ::hecate_host::as_unsigned(rintf(x)); }
inline unsigned __float2uint_rz(float x) { return ::hecate_host::as_unsigned(truncf(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
inline unsigned __brev(unsigned x) {
    x = (x >> 1 & 0x55555555u) | (x & 0x55555555u) << 1;
    x = (x >> 2 & 0x33333333u) | (x & 0x33333333u) << 2;
    x = (x >> 4 & 0x0F0F0F0Fu) | (x & 0x0F0F0F0Fu) << 4;
    return __builtin_bswap32(x);
}
inline unsigned long long __brevll(unsigned long long x) {
    return static_cast<unsigned long long>(__brev(static_cast<unsigned>(x))) << 32 | __brev(static_cast<unsigned>(x >> 32));
}
inline int __mulhi(int x, int y) { return static_cast<int>(static_cast<long long>(x) * y >> 32); }
inline unsigned __umulhi(unsigned x, unsigned y) { return static_cast<unsigned>(static_cast<unsigned long long>(x) * y >> 32); }
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned choice) {
    const unsigned long long both = static_cast<unsigned long long>(y) << 32 | x;
    unsigned out = 0;
    for (unsigned i = 0; i < 4; ++i) out |= static_cast<unsigned>(both >> (choice >> (4 * i) & 7u) * 8 & 0xFFu) << (8 * i);
    return out;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by) {
    return static_cast<unsigned>((static_cast<unsigned long long>(high) << 32 | low) << (by & 31u) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
    return static_cast<unsigned>((static_cast<unsigned long long>(high) << 32 | low) >> (by & 31u));
}

#define HECATE_LESS_AND_MORE(one, other, type)                                                  \
    inline type min(one a, other b) { return static_cast<type>(a) < static_cast<type>(b) ? a : b; } \
    inline type max(one a, other b) { return static_cast<type>(a) < static_cast<type>(b) ? b : a; }
#define HECATE_LESS_AND_MORE_SIGNED(signed_type, type)           \
    HECATE_LESS_AND_MORE(signed_type, signed_type, signed_type)  \
    HECATE_LESS_AND_MORE(type, type, type)                       \
    HECATE_LESS_AND_MORE(signed_type, type, type)                \
    HECATE_LESS_AND_MORE(type, signed_type, type)
HECATE_LESS_AND_MORE_SIGNED(int, unsigned)
HECATE_LESS_AND_MORE_SIGNED(long, unsigned long)
HECATE_LESS_AND_MORE_SIGNED(long long, unsigned long long)
#define HECATE_FLOAT_MIN_MAX(one, other, type, suffix)                    \
    inline type min(one a, other b) { return fmin##suffix(a, b); }        \
    inline type max(one a, other b) { return fmax##suffix(a, b); }
HECATE_FLOAT_MIN_MAX(float, float, float, f)
HECATE_FLOAT_MIN_MAX(double, double, double, )
HECATE_FLOAT_MIN_MAX(float, double, double, )
HECATE_FLOAT_MIN_MAX(double, float, double, )

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
