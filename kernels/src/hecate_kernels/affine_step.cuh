// The op `affine` for a single token, as decoding calls it: every number of the state is read once and
// written once, nothing is shared. A warp owns a row of the memory. Compile-time constants as in affine.cu.
#pragma once

using E = ELEMENT;

constexpr int per_lane = (HEAD_K + 31) / 32;  // channels of a lane

extern "C" __global__ void __launch_bounds__(THREADS)
    affine_step(const E* q, const E* k, const E* v, long long q_batch, long long q_head, long long k_batch,
                long long k_head, long long v_batch, long long v_head, const float* keep, const float* erase,
                const float* write, const float* momentum, const float* inject, const float* memory,
                const float* surprise, E* y, float* memory_end, float* surprise_end, float* updates, int heads) {
    const int row = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= HEAD_V) return;  // a whole warp leaves
    const int batch = blockIdx.y / heads, head = blockIdx.y % heads;
    const long long state = ((long long)blockIdx.y * HEAD_V + row) * HEAD_K, at = (long long)blockIdx.y * HEAD_V + row;
    q += batch * q_batch + head * q_head;
    k += batch * k_batch + head * k_head;
    const float value = to_float(v[batch * v_batch + head * v_head + row]);

    float m[per_lane], key[per_lane], seen = 0.0f;
#pragma unroll
    for (int j = 0; j < per_lane; ++j) {
        const int x = lane + 32 * j;
        m[j] = x < HEAD_K ? memory[state + x] : 0.0f;
        key[j] = x < HEAD_K ? to_float(k[x]) : 0.0f;
        seen += m[j] * key[j];
    }
    float u = write[blockIdx.y] * value;
    if (ERASE) u -= erase[blockIdx.y] * warp_sum(seen);
    const float kept = keep[blockIdx.y], entering = INJECT ? inject[blockIdx.y] : 1.0f;
    float read = 0.0f;
#pragma unroll
    for (int j = 0; j < per_lane; ++j) {
        const int x = lane + 32 * j;
        if (x >= HEAD_K) continue;
        float s = u * key[j];
        if (MOMENTUM) {
            s += momentum[blockIdx.y] * surprise[state + x];
            surprise_end[state + x] = s;
        }
        m[j] = kept * m[j] + entering * s;
        memory_end[state + x] = m[j];
        read += m[j] * to_float(q[x]);
    }
    read = warp_sum(read);
    if (lane == 0) {
        y[at] = from_float<E>(read);
        updates[at] = u;
    }
}
