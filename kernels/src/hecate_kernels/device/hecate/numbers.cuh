// 16-bit numbers as storage: arithmetic is always in fp32.
#pragma once

struct __align__(2) bf16 {
    unsigned short bits;
};

struct __align__(2) f16 {
    unsigned short bits;
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }
__device__ __forceinline__ float to_float(f16 x) { return widen_f16(x.bits); }

template <class T>
struct From;
template <>
struct From<float> {
    static __device__ __forceinline__ float of(float x) { return x; }
};
template <>
struct From<bf16> {
    static __device__ __forceinline__ bf16 of(float x) { return bf16{static_cast<unsigned short>(pack_bf16(x, 0.0f))}; }
};
template <>
struct From<f16> {
    static __device__ __forceinline__ f16 of(float x) { return f16{static_cast<unsigned short>(pack_f16(x, 0.0f))}; }
};

// Rounds to nearest even on the way to storage.
template <class T>
__device__ __forceinline__ T from_float(float x) {
    return From<T>::of(x);
}
