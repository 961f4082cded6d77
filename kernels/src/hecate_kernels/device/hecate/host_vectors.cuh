// CUDA's vector types on the host, aligned as CUDA aligns them: that is what a wide access relies on.
#pragma once

#define HECATE_VECTORS_124(name, type, align2, align4)                                             \
    struct name##1 { type x; };                                                                    \
    struct alignas(align2) name##2 { type x, y; };                                                 \
    struct alignas(align4) name##4 { type x, y, z, w; };                                           \
    inline name##1 make_##name##1(type x) { return {x}; }                                          \
    inline name##2 make_##name##2(type x, type y) { return {x, y}; }                               \
    inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
#define HECATE_VECTORS(name, type, align2, align4)                                                 \
    HECATE_VECTORS_124(name, type, align2, align4)                                                 \
    struct name##3 { type x, y, z; };                                                              \
    inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }

HECATE_VECTORS(char, signed char, 2, 4)
HECATE_VECTORS(uchar, unsigned char, 2, 4)
HECATE_VECTORS(short, short, 4, 8)
HECATE_VECTORS(ushort, unsigned short, 4, 8)
HECATE_VECTORS(int, int, 8, 16)
HECATE_VECTORS_124(uint, unsigned, 8, 16)
HECATE_VECTORS(longlong, long long, 16, 16)
HECATE_VECTORS(ulonglong, unsigned long long, 16, 16)
HECATE_VECTORS(float, float, 8, 16)
HECATE_VECTORS(double, double, 16, 16)

using uint3 = hecate_host::Index3;
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
    constexpr dim3(uint3 of) : x(of.x), y(of.y), z(of.z) {}
    constexpr operator uint3() const { return {x, y, z}; }
};
