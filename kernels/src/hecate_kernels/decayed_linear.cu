// The op `decayed_linear`: one chunk of reads through weights that decay and grow by a rank-one update per
// token, all updates known. One kernel per direction; the constants FORWARD and STEP choose what is compiled: forward,
// backward or a chunk of one token.
// Compile-time constants beside those of chunk_rows.cuh: PARTS, the stored matrices (2 with momentum, else 1).
// A block owns ROWS rows of the stored matrices; blockIdx.y counts batch and head. `count` tokens are real.
// Equations: specs/forms/linearised.md.
#include "hecate_device.cuh"

#if STEP
#include "decayed_step.cuh"
#else
#include "chunk_rows.cuh"

constexpr int ld_f = R + 1;  // rows of fp32 C x R matrices

// Reach of one chunk as fp32, and the shares of each token: reads and ends, `PARTS` apart; zeros beyond the text.
__device__ __forceinline__ void load_decays(float* reach, float* reads, float* ends, const float* from_reach,
                                            const float* from_reads, const float* from_ends, int count) {
    for (int i = threadIdx.x; i < C * C; i += THREADS) {
        const int t = i / C, at = i % C;
        reach[t * ld_c + at] = at <= t && t < count ? from_reach[t * count + at] : 0.0f;
    }
    for (int i = threadIdx.x; i < C * PARTS; i += THREADS) {
        const bool there = i / PARTS < count;
        reads[i] = there ? from_reads[i] : 0.0f;
        ends[i] = there ? from_ends[i] : 0.0f;
    }
}

// Rows of all stored matrices, one matrix after another.
__device__ __forceinline__ void load_stored(E* to, const float* from, int row0) {
    for (int i = threadIdx.x; i < PARTS * R * K; i += THREADS) {
        const int j = i / (R * K), r = i / K % R, x = i % K;
        const bool there = row0 + r < HEAD_V && x < HEAD_K;
        to[(j * R + r) * ld_k + x] =
            from_float<E>(there ? from[(long long)(j * HEAD_V + row0 + r) * HEAD_K + x] : 0.0f);
    }
}

// Rows of `from` times one share per token, as operands.
__device__ __forceinline__ void scale_rows(E* to, const E* from, const float* shares, int part) {
    for (int i = threadIdx.x; i < C * R; i += THREADS) {
        const int t = i / R, at = t * ld_r + i % R;
        to[at] = from_float<E>(to_float(from[at]) * shares[t * PARTS + part]);
    }
}

#if FORWARD
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    decayed_forward(const E* q, const E* u, const E* x, const float* stored, const float* reach_of, const float* reads_of,
                    const float* ends_of, const float* carry, E* y, float* end, int count) {
    HECATE_ARENA(arena);
    HECATE_CARVE(arena, E, queries, C * ld_k);
    HECATE_CARVE(arena, E, inputs, C * ld_k);
    HECATE_CARVE(arena, E, updates, C * ld_r);
    HECATE_CARVE(arena, E, shared_out, PARTS * C * ld_r);  // updates as the ends see them
    HECATE_CARVE(arena, E, z, PARTS * R * ld_k);
    HECATE_CARVE(arena, float, reach, C * ld_c);
    HECATE_CARVE(arena, float, reads, C * PARTS);
    HECATE_CARVE(arena, float, ends, C * PARTS);
    HECATE_CARVE(arena, float, answers, C * ld_f);
    HECATE_CARVE(arena, E, inside, C * ld_e);

    const int row0 = blockIdx.x * R;
    const long long g = blockIdx.y, tokens = g * count, matrix = (long long)HEAD_V * HEAD_K;
    stored += g * PARTS * matrix;
    end += g * PARTS * matrix;
    carry += g * PARTS * PARTS;
    load_rows<HEAD_K, K>(queries, ld_k, q + tokens * HEAD_K, HEAD_K, 0, count);
    load_rows<HEAD_K, K>(inputs, ld_k, x + tokens * HEAD_K, HEAD_K, 0, count);
    load_rows<HEAD_V, R>(updates, ld_r, u + tokens * HEAD_V, HEAD_V, 0, count, row0);
    load_stored(z, stored, row0);
    load_decays(reach, reads, ends, reach_of + tokens * count, reads_of + tokens * PARTS, ends_of + tokens * PARTS, count);
    __syncthreads();
    for (int j = 0; j < PARTS; ++j) scale_rows(shared_out + j * C * ld_r, updates, ends, j);
    compute<E, C, C>([&](auto& sum) { sum.template add<K, rows, turned>(queries, ld_k, inputs, ld_k); },
                     [&](int t, int i, float score) { inside[t * ld_e + i] = from_float<E>(score * reach[t * ld_c + i]); });
    for (int j = 0; j < PARTS; ++j)
        compute<E, C, R>([&](auto& sum) { sum.template add<K, rows, turned>(queries, ld_k, z + j * R * ld_k, ld_k); },
                         [&](int t, int r, float seen) {
                             float& answer = answers[t * ld_f + r];
                             answer = (j ? answer : 0.0f) + reads[t * PARTS + j] * seen;
                         });
    __syncthreads();
    compute<E, C, R>([&](auto& sum) { sum.template add<C, rows, rows>(inside, ld_e, updates, ld_r); },
                     [&](int t, int r, float value) {
                         if (t < count && row0 + r < HEAD_V)
                             y[(tokens + t) * HEAD_V + row0 + r] = from_float<E>(value + answers[t * ld_f + r]);
                     });
    for (int j = 0; j < PARTS; ++j)
        compute<E, R, K>(
            [&](auto& sum) { sum.template add<C, turned, rows>(shared_out + j * C * ld_r, ld_r, inputs, ld_k); },
            [&](int r, int c, float wrote) {
                if (row0 + r >= HEAD_V || c >= HEAD_K) return;
                const long long at = (long long)(row0 + r) * HEAD_K + c;
                for (int i = 0; i < PARTS; ++i) wrote += carry[j * PARTS + i] * stored[i * matrix + at];
                end[j * matrix + at] = wrote;
            });
}
#else

// Gradients that sum over rows of the stored matrices (all but du and d_stored) come out per row group.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    decayed_backward(const E* q, const E* u, const E* x, const float* stored, const float* reach_of,
                     const float* reads_of, const float* ends_of, const float* carry, const E* d_y, const float* d_end,
                     float* dq, E* du, float* dx, float* d_stored, float* d_reach, float* d_reads, float* d_ends,
                     float* d_carry, int count) {
    HECATE_ARENA(arena);
    HECATE_CARVE(arena, E, queries, C * ld_k);
    HECATE_CARVE(arena, E, inputs, C * ld_k);
    HECATE_CARVE(arena, E, updates, C * ld_r);
    HECATE_CARVE(arena, E, dy, C * ld_r);
    HECATE_CARVE(arena, E, by_ends, PARTS * C * ld_r);   // updates as the ends see them
    HECATE_CARVE(arena, E, by_reads, PARTS * C * ld_r);  // dy as it reaches the stored matrices
    HECATE_CARVE(arena, E, z, PARTS * R * ld_k);
    HECATE_CARVE(arena, E, dz, PARTS * R * ld_k);
    HECATE_CARVE(arena, float, reach, C * ld_c);
    HECATE_CARVE(arena, float, reads, C * PARTS);
    HECATE_CARVE(arena, float, ends, C * PARTS);
    HECATE_CARVE(arena, float, moved, PARTS * C * ld_f);
    HECATE_CARVE(arena, float, scores, C * ld_c);
    HECATE_CARVE(arena, E, inside, C * ld_e);
    HECATE_CARVE(arena, E, d_scores, C * ld_e);
    HECATE_CARVE(arena, float, warps, THREADS / 32);

    const int row0 = blockIdx.x * R;
    const long long g = blockIdx.y, tokens = g * count, matrix = (long long)HEAD_V * HEAD_K;
    const long long group = (long long)blockIdx.x * gridDim.y + g, part = group * count;  // of this row group
    stored += g * PARTS * matrix;
    d_end += g * PARTS * matrix;
    d_stored += g * PARTS * matrix;
    carry += g * PARTS * PARTS;
    load_rows<HEAD_K, K>(queries, ld_k, q + tokens * HEAD_K, HEAD_K, 0, count);
    load_rows<HEAD_K, K>(inputs, ld_k, x + tokens * HEAD_K, HEAD_K, 0, count);
    load_rows<HEAD_V, R>(updates, ld_r, u + tokens * HEAD_V, HEAD_V, 0, count, row0);
    load_rows<HEAD_V, R>(dy, ld_r, d_y + tokens * HEAD_V, HEAD_V, 0, count, row0);
    load_stored(z, stored, row0);
    load_stored(dz, d_end, row0);
    load_decays(reach, reads, ends, reach_of + tokens * count, reads_of + tokens * PARTS, ends_of + tokens * PARTS, count);
    __syncthreads();
    for (int j = 0; j < PARTS; ++j) {
        scale_rows(by_ends + j * C * ld_r, updates, ends, j);
        scale_rows(by_reads + j * C * ld_r, dy, reads, j);
    }
    compute<E, C, C>([&](auto& sum) { sum.template add<K, rows, turned>(queries, ld_k, inputs, ld_k); },
                     [&](int t, int i, float score) {
                         scores[t * ld_c + i] = score;
                         inside[t * ld_e + i] = from_float<E>(score * reach[t * ld_c + i]);
                     });
    for (int j = 0; j < PARTS; ++j)
        compute<E, C, R>([&](auto& sum) { sum.template add<K, rows, turned>(inputs, ld_k, dz + j * R * ld_k, ld_k); },
                         [&](int t, int r, float value) { moved[(j * C + t) * ld_f + r] = value; });
    __syncthreads();
    compute<E, C, R>([&](auto& sum) { sum.template add<C, turned, rows>(inside, ld_e, dy, ld_r); },
                     [&](int t, int r, float value) {
                         for (int j = 0; j < PARTS; ++j) value += ends[t * PARTS + j] * moved[(j * C + t) * ld_f + r];
                         if (t < count && row0 + r < HEAD_V)
                             du[(tokens + t) * HEAD_V + row0 + r] = from_float<E>(value);
                     });
    compute<E, C, C>([&](auto& sum) { sum.template add<R, rows, turned>(dy, ld_r, updates, ld_r); },
                     [&](int t, int i, float weighted) {
                         d_scores[t * ld_e + i] = from_float<E>(weighted * reach[t * ld_c + i]);
                         if (t < count && i < count)
                             d_reach[(part + t) * count + i] = i <= t ? weighted * scores[t * ld_c + i] : 0.0f;
                     });
    for (int j = 0; j < PARTS; ++j)
        row_sums(R, [&](int t, int r) { return moved[(j * C + t) * ld_f + r] * to_float(updates[t * ld_r + r]); },
                 [&](int t, float sum) {
                     if (t < count) d_ends[(part + t) * PARTS + j] = sum;
                 });
    __syncthreads();
    for (int j = 0; j < PARTS; ++j)
        compute<E, C, R>([&](auto& sum) { sum.template add<K, rows, turned>(queries, ld_k, z + j * R * ld_k, ld_k); },
                         [&](int t, int r, float value) { moved[(j * C + t) * ld_f + r] = value; });
    compute<E, C, K>(
        [&](auto& sum) {
            sum.template add<C, rows, rows>(d_scores, ld_e, inputs, ld_k);
            for (int j = 0; j < PARTS; ++j)
                sum.template add<R, rows, rows>(by_reads + j * C * ld_r, ld_r, z + j * R * ld_k, ld_k);
        },
        [&](int t, int c, float value) {
            if (t < count && c < HEAD_K) dq[(part + t) * HEAD_K + c] = value;
        });
    compute<E, C, K>(
        [&](auto& sum) {
            sum.template add<C, turned, rows>(d_scores, ld_e, queries, ld_k);
            for (int j = 0; j < PARTS; ++j)
                sum.template add<R, rows, rows>(by_ends + j * C * ld_r, ld_r, dz + j * R * ld_k, ld_k);
        },
        [&](int t, int c, float value) {
            if (t < count && c < HEAD_K) dx[(part + t) * HEAD_K + c] = value;
        });
    for (int j = 0; j < PARTS; ++j)
        compute<E, R, K>(
            [&](auto& sum) { sum.template add<C, turned, rows>(by_reads + j * C * ld_r, ld_r, queries, ld_k); },
            [&](int r, int c, float value) {
                if (row0 + r >= HEAD_V || c >= HEAD_K) return;
                const long long at = (long long)(row0 + r) * HEAD_K + c;
                for (int i = 0; i < PARTS; ++i) value += carry[i * PARTS + j] * d_end[i * matrix + at];
                d_stored[j * matrix + at] = value;
            });
    __syncthreads();
    for (int j = 0; j < PARTS; ++j)
        row_sums(R, [&](int t, int r) { return moved[(j * C + t) * ld_f + r] * to_float(dy[t * ld_r + r]); },
                 [&](int t, float sum) {
                     if (t < count) d_reads[(part + t) * PARTS + j] = sum;
                 });
    for (int pair = 0; pair < PARTS * PARTS; ++pair) {
        float sum = 0.0f;
        for (int i = threadIdx.x; i < R * HEAD_K; i += THREADS) {
            const long long at = (long long)row0 * HEAD_K + i;  // in fp32, as they came
            if (row0 + i / HEAD_K < HEAD_V) sum += d_end[pair / PARTS * matrix + at] * stored[pair % PARTS * matrix + at];
        }
        sum = block_sum(sum, warps);
        if (threadIdx.x == 0) d_carry[group * PARTS * PARTS + pair] = sum;
    }
}
#endif
#endif
