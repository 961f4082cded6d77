// The op `decayed_linear` for a chunk of one token, as decoding calls it: every number of the stored matrices is read
// once and written once, nothing is shared. A warp owns a row of them. Compile-time constants as in decayed_linear.cu.
#pragma once

using E = ELEMENT;

constexpr int per_lane = (HEAD_K + 31) / 32;  // channels of a lane

extern "C" __global__ void __launch_bounds__(THREADS)
    decayed_step(const E* q, const E* u, const E* x, const float* stored, const float* reach, const float* reads,
                 const float* ends, const float* carry, E* y, float* end) {
    const int row = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= HEAD_V) return;  // a whole warp leaves
    const long long g = blockIdx.y, matrix = (long long)HEAD_V * HEAD_K, first = g * PARTS * matrix + (long long)row * HEAD_K;
    const float update = to_float(u[g * HEAD_V + row]);
    reads += g * PARTS;
    ends += g * PARTS;
    carry += g * PARTS * PARTS;

    float seen = 0.0f, score = 0.0f;
#pragma unroll 8
    for (int j = 0; j < per_lane; ++j) {
        const int at = lane + 32 * j;
        if (at >= HEAD_K) continue;
        const float query = to_float(q[g * HEAD_K + at]), input = to_float(x[g * HEAD_K + at]);
        float z[PARTS];
        score += query * input;
        for (int i = 0; i < PARTS; ++i) {
            z[i] = stored[first + i * matrix + at];
            seen += reads[i] * z[i] * query;
        }
        for (int i = 0; i < PARTS; ++i) {
            float wrote = ends[i] * update * input;
            for (int l = 0; l < PARTS; ++l) wrote += carry[i * PARTS + l] * z[l];
            end[first + i * matrix + at] = wrote;
        }
    }
    seen = warp_sum(seen);
    score = warp_sum(score);
    if (lane == 0) y[g * HEAD_V + row] = from_float<E>(seen + reach[g] * score * update);
}
