// The op `affine_column` for a single token, as decoding calls it: every number of the state is read once and
// written once, nothing is shared. A warp owns a row of the memory. Compile-time constants as in affine_column.cu.
#pragma once

using E = ELEMENT;

constexpr int per_lane = (HEAD_K + 31) / 32;  // channels of a lane

extern "C" __global__ void __launch_bounds__(THREADS)
    column_step(const E* q, const E* k, const E* v, long long q_batch, long long q_head, long long k_batch,
                long long k_head, long long v_batch, long long v_head, const float* keep, const float* erase,
                const float* write, const float* memory, E* y, float* memory_end, E* updates, int heads) {
    const int row = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= HEAD_V) return;  // a whole warp leaves
    const int batch = blockIdx.y / heads, head = blockIdx.y % heads;
    const long long state = ((long long)blockIdx.y * HEAD_V + row) * HEAD_K, at = (long long)blockIdx.y * HEAD_V + row;
    const long long channel = (long long)blockIdx.y * HEAD_K;
    q += batch * q_batch + head * q_head;
    k += batch * k_batch + head * k_head;

    float m[per_lane], key[per_lane], seen = 0.0f;
#pragma unroll
    for (int j = 0; j < per_lane; ++j) {
        const int x = lane + 32 * j;
        m[j] = x < HEAD_K ? memory[state + x] : 0.0f;
        key[j] = x < HEAD_K ? to_float(k[x]) : 0.0f;
        if (ERASE && x < HEAD_K) seen += m[j] * erase[channel + x] * key[j];
    }
    float u = write[blockIdx.y] * to_float(v[batch * v_batch + head * v_head + row]);
    if (ERASE) u -= warp_sum(seen);
    float read = 0.0f;
#pragma unroll
    for (int j = 0; j < per_lane; ++j) {
        const int x = lane + 32 * j;
        if (x >= HEAD_K) continue;
        m[j] = keep[channel + x] * m[j] + u * key[j];
        memory_end[state + x] = m[j];
        read += m[j] * to_float(q[x]);
    }
    read = warp_sum(read);
    if (lane == 0) {
        y[at] = from_float<E>(read);
        updates[at] = from_float<E>(u);
    }
}
