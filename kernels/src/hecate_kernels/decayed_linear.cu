// The op `decayed_linear`: one chunk of reads through weights that decay and grow by a rank-one update per
// token, all updates known. One kernel per direction; the constants FORWARD and STEP choose what is compiled: forward,
// backward or a chunk of one token.
// Compile-time constants beside those of chunk_rows.cuh: PARTS, the stored matrices (2 with momentum, else 1), and TILE,
// the keys' channels that are in shared memory at once: all of them, or so many that they fit, one tile after another.
// A block owns ROWS rows of the stored matrices; blockIdx.y counts batch and head. `count` tokens are real.
// Equations: specs/forms/linearised.md.
#include "hecate_device.cuh"

#if STEP
#include "decayed_step.cuh"
#else
#include "chunk_rows.cuh"

constexpr int ld_f = R + 1;              // rows of fp32 C x R matrices
constexpr int W = TILE, ld_w = W + pad;  // rows of a tile
constexpr int tiles = (K + W - 1) / W;

static_assert(W % 16 == 0, "TILE is a multiple of 16");

// The shares of each token, `PARTS` apart: of the stored matrices in its read, of its update in their ends; zeros
// beyond the text.
__device__ __forceinline__ void load_shares(float* reads, float* ends, const float* from_reads, const float* from_ends,
                                            int count) {
    for (int i = threadIdx.x; i < C * PARTS; i += THREADS) {
        const bool there = i / PARTS < count;
        reads[i] = there ? from_reads[i] : 0.0f;
        ends[i] = there ? from_ends[i] : 0.0f;
    }
}

// How far the update of token `at` reaches the read of token t; no further than the text, and not back in time.
__device__ __forceinline__ float reached(const float* reach, int t, int at, int count) {
    return at <= t && t < count ? reach[t * count + at] : 0.0f;
}

// A tile of the rows of all stored matrices, one matrix after another.
__device__ __forceinline__ void load_stored(E* to, const float* from, int row0, int column) {
    for (int i = threadIdx.x; i < PARTS * R * W; i += THREADS) {
        const int j = i / (R * W), r = i / W % R, x = i % W;
        const bool there = row0 + r < HEAD_V && column + x < HEAD_K;
        to[(j * R + r) * ld_w + x] =
            from_float<E>(there ? from[(long long)(j * HEAD_V + row0 + r) * HEAD_K + column + x] : 0.0f);
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
    decayed_forward(const E* q, const E* u, const E* x, const float* stored, const float* reach, const float* reads_of,
                    const float* ends_of, const float* carry, E* y, float* end, int count) {
    HECATE_ARENA(arena);
    HECATE_CARVE(arena, E, queries, C * ld_w);
    HECATE_CARVE(arena, E, inputs, C * ld_w);
    HECATE_CARVE(arena, E, updates, C * ld_r);
    HECATE_CARVE(arena, E, shared_out, PARTS * C * ld_r);  // updates as the ends see them
    HECATE_CARVE(arena, E, z, PARTS * R * ld_w);
    HECATE_CARVE(arena, float, reads, C * PARTS);
    HECATE_CARVE(arena, float, ends, C * PARTS);
    HECATE_CARVE(arena, float, answers, C * ld_f);
    HECATE_CARVE(arena, E, inside, C * ld_e);
    HECATE_CARVE(arena, float, scores, tiles > 1 ? C * ld_c : 1);  // of the tiles so far

    const int row0 = blockIdx.x * R;
    const long long g = blockIdx.y, tokens = g * count, matrix = (long long)HEAD_V * HEAD_K;
    stored += g * PARTS * matrix;
    end += g * PARTS * matrix;
    reach += tokens * count;
    carry += g * PARTS * PARTS;
    load_rows<HEAD_V, R>(updates, ld_r, u + tokens * HEAD_V, HEAD_V, 0, count, row0);
    load_shares(reads, ends, reads_of + tokens * PARTS, ends_of + tokens * PARTS, count);
    for (int tile = 0; tile < tiles; ++tile) {
        const int column = tile * W;
        if (tile) __syncthreads();
        load_rows<HEAD_K, W>(queries, ld_w, q + tokens * HEAD_K, HEAD_K, 0, count, column);
        load_rows<HEAD_K, W>(inputs, ld_w, x + tokens * HEAD_K, HEAD_K, 0, count, column);
        load_stored(z, stored, row0, column);
        __syncthreads();
        if (!tile)
            for (int j = 0; j < PARTS; ++j) scale_rows(shared_out + j * C * ld_r, updates, ends, j);
        compute<E, C, C>([&](auto& sum) { sum.template add<W, rows, turned>(queries, ld_w, inputs, ld_w); },
                         [&](int t, int i, float score) {
                             if (tile) score += scores[t * ld_c + i];
                             if (tile < tiles - 1)
                                 scores[t * ld_c + i] = score;
                             else
                                 inside[t * ld_e + i] = from_float<E>(score * reached(reach, t, i, count));
                         });
        for (int j = 0; j < PARTS; ++j)
            compute<E, C, R>([&](auto& sum) { sum.template add<W, rows, turned>(queries, ld_w, z + j * R * ld_w, ld_w); },
                             [&](int t, int r, float seen) {
                                 float& answer = answers[t * ld_f + r];
                                 answer = (j || tile ? answer : 0.0f) + reads[t * PARTS + j] * seen;
                             });
        __syncthreads();
        for (int j = 0; j < PARTS; ++j)
            compute<E, R, W>(
                [&](auto& sum) { sum.template add<C, turned, rows>(shared_out + j * C * ld_r, ld_r, inputs, ld_w); },
                [&](int r, int c, float wrote) {
                    if (row0 + r >= HEAD_V || column + c >= HEAD_K) return;
                    const long long at = (long long)(row0 + r) * HEAD_K + column + c;
                    for (int i = 0; i < PARTS; ++i) wrote += carry[j * PARTS + i] * stored[i * matrix + at];
                    end[j * matrix + at] = wrote;
                });
    }
    compute<E, C, R>([&](auto& sum) { sum.template add<C, rows, rows>(inside, ld_e, updates, ld_r); },
                     [&](int t, int r, float value) {
                         if (t < count && row0 + r < HEAD_V)
                             y[(tokens + t) * HEAD_V + row0 + r] = from_float<E>(value + answers[t * ld_f + r]);
                     });
}
#else

// Gradients that sum over rows of the stored matrices (all but du and d_stored) come out per row group. The tiles of
// the keys are walked twice: for the products over all channels, then for what each channel gets of them.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    decayed_backward(const E* q, const E* u, const E* x, const float* stored, const float* reach,
                     const float* reads_of, const float* ends_of, const float* carry, const E* d_y, const float* d_end,
                     float* dq, E* du, float* dx, float* d_stored, float* d_reach, float* d_reads, float* d_ends,
                     float* d_carry, int count) {
    HECATE_ARENA(arena);
    HECATE_CARVE(arena, E, queries, C * ld_w);
    HECATE_CARVE(arena, E, inputs, C * ld_w);
    HECATE_CARVE(arena, E, updates, C * ld_r);
    HECATE_CARVE(arena, E, dy, C * ld_r);
    HECATE_CARVE(arena, E, by_ends, PARTS * C * ld_r);   // updates as the ends see them
    HECATE_CARVE(arena, E, by_reads, PARTS * C * ld_r);  // dy as it reaches the stored matrices
    HECATE_CARVE(arena, E, z, PARTS * R * ld_w);
    HECATE_CARVE(arena, E, dz, PARTS * R * ld_w);
    HECATE_CARVE(arena, float, reads, C * PARTS);
    HECATE_CARVE(arena, float, ends, C * PARTS);
    HECATE_CARVE(arena, float, moved, PARTS * C * ld_f);
    HECATE_CARVE(arena, float, scores, C * ld_c);
    HECATE_CARVE(arena, E, inside, C * ld_e);
    HECATE_CARVE(arena, E, d_scores_copy, narrow ? C * ld_e : 1);
    HECATE_CARVE(arena, float, warps, THREADS / 32);
    auto* const d_scores = operand(scores, d_scores_copy);  // in fp32 each takes the place of its score

    const int row0 = blockIdx.x * R;
    const long long g = blockIdx.y, tokens = g * count, matrix = (long long)HEAD_V * HEAD_K;
    const long long group = (long long)blockIdx.x * gridDim.y + g, part = group * count;  // of this row group
    stored += g * PARTS * matrix;
    d_end += g * PARTS * matrix;
    d_stored += g * PARTS * matrix;
    reach += tokens * count;
    carry += g * PARTS * PARTS;
    const auto load_tile = [&](int column) {
        load_rows<HEAD_K, W>(queries, ld_w, q + tokens * HEAD_K, HEAD_K, 0, count, column);
        load_rows<HEAD_K, W>(inputs, ld_w, x + tokens * HEAD_K, HEAD_K, 0, count, column);
        load_stored(z, stored, row0, column);
        load_stored(dz, d_end, row0, column);
    };
    load_rows<HEAD_V, R>(updates, ld_r, u + tokens * HEAD_V, HEAD_V, 0, count, row0);
    load_rows<HEAD_V, R>(dy, ld_r, d_y + tokens * HEAD_V, HEAD_V, 0, count, row0);
    load_shares(reads, ends, reads_of + tokens * PARTS, ends_of + tokens * PARTS, count);
    for (int tile = 0; tile < tiles; ++tile) {
        if (tile) __syncthreads();
        load_tile(tile * W);
        __syncthreads();
        if (!tile)
            for (int j = 0; j < PARTS; ++j) {
                scale_rows(by_ends + j * C * ld_r, updates, ends, j);
                scale_rows(by_reads + j * C * ld_r, dy, reads, j);
            }
        compute<E, C, C>([&](auto& sum) { sum.template add<W, rows, turned>(queries, ld_w, inputs, ld_w); },
                         [&](int t, int i, float score) {
                             if (tile) score += scores[t * ld_c + i];
                             scores[t * ld_c + i] = score;
                             if (tile == tiles - 1)
                                 inside[t * ld_e + i] = from_float<E>(score * reached(reach, t, i, count));
                         });
        for (int j = 0; j < PARTS; ++j)
            compute<E, C, R>([&](auto& sum) { sum.template add<W, rows, turned>(inputs, ld_w, dz + j * R * ld_w, ld_w); },
                             [&](int t, int r, float value) {
                                 float& sum = moved[(j * C + t) * ld_f + r];
                                 sum = (tile ? sum : 0.0f) + value;
                             });
    }
    __syncthreads();
    compute<E, C, R>([&](auto& sum) { sum.template add<C, turned, rows>(inside, ld_e, dy, ld_r); },
                     [&](int t, int r, float value) {
                         for (int j = 0; j < PARTS; ++j) value += ends[t * PARTS + j] * moved[(j * C + t) * ld_f + r];
                         if (t < count && row0 + r < HEAD_V)
                             du[(tokens + t) * HEAD_V + row0 + r] = from_float<E>(value);
                     });
    compute<E, C, C>([&](auto& sum) { sum.template add<R, rows, turned>(dy, ld_r, updates, ld_r); },
                     [&](int t, int i, float weighted) {
                         if (t < count && i < count)
                             d_reach[(part + t) * count + i] = i <= t ? weighted * scores[t * ld_c + i] : 0.0f;
                         d_scores[t * ld_e + i] = from_float<E>(weighted * reached(reach, t, i, count));
                     });
    for (int j = 0; j < PARTS; ++j)
        row_sums(R, [&](int t, int r) { return moved[(j * C + t) * ld_f + r] * to_float(updates[t * ld_r + r]); },
                 [&](int t, float sum) {
                     if (t < count) d_ends[(part + t) * PARTS + j] = sum;
                 });
    __syncthreads();
    for (int tile = 0; tile < tiles; ++tile) {
        const int column = tile * W;
        if (tile) __syncthreads();
        if (tiles > 1) {
            load_tile(column);
            __syncthreads();
        }
        for (int j = 0; j < PARTS; ++j)
            compute<E, C, R>([&](auto& sum) { sum.template add<W, rows, turned>(queries, ld_w, z + j * R * ld_w, ld_w); },
                             [&](int t, int r, float value) {
                                 float& sum = moved[(j * C + t) * ld_f + r];
                                 sum = (tile ? sum : 0.0f) + value;
                             });
        compute<E, C, W>(
            [&](auto& sum) {
                sum.template add<C, rows, rows>(d_scores, ld_e, inputs, ld_w);
                for (int j = 0; j < PARTS; ++j)
                    sum.template add<R, rows, rows>(by_reads + j * C * ld_r, ld_r, z + j * R * ld_w, ld_w);
            },
            [&](int t, int c, float value) {
                if (t < count && column + c < HEAD_K) dq[(part + t) * HEAD_K + column + c] = value;
            });
        compute<E, C, W>(
            [&](auto& sum) {
                sum.template add<C, turned, rows>(d_scores, ld_e, queries, ld_w);
                for (int j = 0; j < PARTS; ++j)
                    sum.template add<R, rows, rows>(by_ends + j * C * ld_r, ld_r, dz + j * R * ld_w, ld_w);
            },
            [&](int t, int c, float value) {
                if (t < count && column + c < HEAD_K) dx[(part + t) * HEAD_K + column + c] = value;
            });
        for (int j = 0; j < PARTS; ++j)
            compute<E, R, W>(
                [&](auto& sum) { sum.template add<C, turned, rows>(by_reads + j * C * ld_r, ld_r, queries, ld_w); },
                [&](int r, int c, float value) {
                    if (row0 + r >= HEAD_V || column + c >= HEAD_K) return;
                    const long long at = (long long)(row0 + r) * HEAD_K + column + c;
                    for (int i = 0; i < PARTS; ++i) value += carry[i * PARTS + j] * d_end[i * matrix + at];
                    d_stored[j * matrix + at] = value;
                });
    }
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
