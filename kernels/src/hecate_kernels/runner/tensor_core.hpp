// mma.m16n8k16 in plain C++: factors of 16 bits, sums in fp32. The hardware may add in another order.
#pragma once

namespace hecate_host {

inline float widen(unsigned bits, bool half) {
    unsigned out;
    if (!half) {
        out = bits << 16;
    } else {
        const unsigned sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31u, fraction = bits & 0x3FFu;
        if (exponent == 31) {
            out = sign | 0x7F800000u | fraction << 13;
        } else if (exponent) {
            out = sign | (exponent + 112) << 23 | fraction << 13;
        } else {
            const float tiny = static_cast<float>(fraction) * 5.9604644775390625e-8f;  // 2^-24
            return sign ? -tiny : tiny;
        }
    }
    float value;
    __builtin_memcpy(&value, &out, 4);
    return value;
}

// All 32 lanes' sums of mma.m16n8k16 from the fragment layout of the PTX manual.
inline void multiply_tile(bool half, const unsigned (*payload)[8], float (*sums)[4]) {
    constexpr unsigned lanes = 32;
    float a[16][16], b[16][8];
    for (unsigned lane = 0; lane < lanes; ++lane) {
        const unsigned group = lane / 4, pair = lane % 4 * 2;
        const unsigned* word = payload[lane];
        for (unsigned i = 0; i < 4; ++i)
            for (unsigned e = 0; e < 2; ++e)
                a[group + (i & 1) * 8][pair + e + (i >> 1) * 8] = widen(word[i] >> (16 * e) & 0xFFFFu, half);
        for (unsigned i = 0; i < 2; ++i)
            for (unsigned e = 0; e < 2; ++e) b[pair + e + i * 8][group] = widen(word[4 + i] >> (16 * e) & 0xFFFFu, half);
    }
    float c[16][8];
    for (unsigned row = 0; row < 16; ++row) {
        for (unsigned col = 0; col < 8; ++col) c[row][col] = 0.0f;
        for (unsigned k = 0; k < 16; ++k)
            for (unsigned col = 0; col < 8; ++col) c[row][col] += a[row][k] * b[k][col];
    }
    for (unsigned lane = 0; lane < lanes; ++lane)
        for (unsigned i = 0; i < 4; ++i) sums[lane][i] = c[lane / 4 + (i >> 1) * 8][lane % 4 * 2 + (i & 1)];
}

}  // namespace hecate_host
