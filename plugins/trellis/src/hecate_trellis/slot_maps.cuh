// The maps over slots and the error they leave, for plain numbers and for numbers with a derivative.
// PHI: 0 identity, 1 silu, 2 l2-silu, 3 ln-silu, 4 softmax. Equations: specs/rules/trellis.md, Eq. 1 and 5 to 8.
#pragma once

constexpr bool whole = PHI >= 2;  // a slot's answer depends on the other slots
constexpr float epsilon = 1e-5f;

// A value and its derivative along one direction.
struct Dual {
    float v, d;
    __device__ __forceinline__ Dual(float value = 0.0f, float derivative = 0.0f) : v(value), d(derivative) {}
};

__device__ __forceinline__ Dual operator+(Dual a, Dual b) { return {a.v + b.v, a.d + b.d}; }
__device__ __forceinline__ Dual operator-(Dual a, Dual b) { return {a.v - b.v, a.d - b.d}; }
__device__ __forceinline__ Dual operator*(Dual a, Dual b) { return {a.v * b.v, a.d * b.v + a.v * b.d}; }

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ __forceinline__ Dual sigmoid(Dual x) {
    const float y = sigmoid(x.v);
    return {y, y * (1.0f - y) * x.d};
}
__device__ __forceinline__ float one_over_root(float x) { return 1.0f / sqrtf(x); }
__device__ __forceinline__ Dual one_over_root(Dual x) {
    const float y = one_over_root(x.v);
    return {y, -0.5f * y * y * y * x.d};
}
__device__ __forceinline__ float one_over(float x) { return 1.0f / x; }
__device__ __forceinline__ Dual one_over(Dual x) { return {1.0f / x.v, -x.d / (x.v * x.v)}; }
__device__ __forceinline__ float power(float x) { return expf(x); }
__device__ __forceinline__ Dual power(Dual x) {
    const float y = expf(x.v);
    return {y, y * x.d};
}
__device__ __forceinline__ float value_of(float x) { return x; }
__device__ __forceinline__ float value_of(Dual x) { return x.v; }
__device__ __forceinline__ float total(float x) { return warp_sum(x); }
__device__ __forceinline__ Dual total(Dual x) { return {warp_sum(x.v), warp_sum(x.d)}; }

__device__ __forceinline__ float largest(float x) {
    for (int offset = 16; offset; offset >>= 1) x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, offset));
    return x;
}

// The sum of term(i) over `Count` slots per lane and all lanes of the warp.
template <class X, int Count, class Term>
__device__ __forceinline__ X sum_of(Term term) {
    X sum = 0.0f;
#pragma unroll
    for (int i = 0; i < Count; ++i) sum = sum + term(i);
    return total(sum);
}

// e = phi(z) - code and u = J(z)^T e. Maps over whole slots need all SLOTS of them in the warp, `Count` per lane;
// `there` is 0 where a lane has none.
template <class X, int Count>
__device__ __forceinline__ void errors(const X (&z)[Count], const float (&code)[Count], const float (&there)[Count],
                                       X (&e)[Count], X (&u)[Count]) {
    if constexpr (PHI == 0) {
#pragma unroll
        for (int i = 0; i < Count; ++i) u[i] = e[i] = z[i] - X(code[i]);
        return;
    }
    if constexpr (PHI == 4) {
        float high = -3.0e38f;
#pragma unroll
        for (int i = 0; i < Count; ++i) high = there[i] != 0.0f ? fmaxf(high, value_of(z[i])) : high;
        high = largest(high);
        X share[Count];
#pragma unroll
        for (int i = 0; i < Count; ++i) share[i] = there[i] != 0.0f ? power(z[i] - X(high)) : X(0.0f);
        const X scale = one_over(sum_of<X, Count>([&](int i) { return share[i]; }));
#pragma unroll
        for (int i = 0; i < Count; ++i) {
            share[i] = share[i] * scale;
            e[i] = share[i] - X(code[i]);
        }
        const X mean = sum_of<X, Count>([&](int i) { return share[i] * e[i]; });
#pragma unroll
        for (int i = 0; i < Count; ++i) u[i] = share[i] * (e[i] - mean);
        return;
    }
    X h[Count], slope[Count];
#pragma unroll
    for (int i = 0; i < Count; ++i) {
        const X gate = sigmoid(z[i]);
        h[i] = z[i] * gate;
        slope[i] = gate * (X(1.0f) + z[i] * (X(1.0f) - gate));
    }
    if constexpr (PHI == 1) {
#pragma unroll
        for (int i = 0; i < Count; ++i) {
            e[i] = h[i] - X(code[i]);
            u[i] = e[i] * slope[i];
        }
        return;
    }
    constexpr bool centred = PHI == 3;  // then sums are means, and what goes back is centred too
    const X part = centred ? 1.0f / SLOTS : 1.0f;
    if constexpr (centred) {
        const X mean = part * sum_of<X, Count>([&](int i) { return X(there[i]) * h[i]; });
#pragma unroll
        for (int i = 0; i < Count; ++i) h[i] = X(there[i]) * (h[i] - mean);
    }
    const X scale = one_over_root(part * sum_of<X, Count>([&](int i) { return X(there[i]) * h[i] * h[i]; }) + X(epsilon));
#pragma unroll
    for (int i = 0; i < Count; ++i) e[i] = X(there[i]) * (h[i] * scale - X(code[i]));
    const X along = part * sum_of<X, Count>([&](int i) { return h[i] * e[i]; });
#pragma unroll
    for (int i = 0; i < Count; ++i) u[i] = X(there[i]) * scale * (e[i] - scale * scale * h[i] * along);
    if constexpr (centred) {
        const X mean = part * sum_of<X, Count>([&](int i) { return u[i]; });
#pragma unroll
        for (int i = 0; i < Count; ++i) u[i] = u[i] - X(there[i]) * mean;
    }
#pragma unroll
    for (int i = 0; i < Count; ++i) u[i] = u[i] * slope[i];
}
