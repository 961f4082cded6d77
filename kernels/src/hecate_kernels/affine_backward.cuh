// The op `affine`, backward: walks the chunks from the last to the first with the adjoints dm, ds of the
// memory and the momentum. Gradients that sum over rows of the memory (by q, k and the coefficients) come
// out per row group and are added up by the caller, so the result does not depend on any order of blocks.
#pragma once
#include "affine_chunk.cuh"

// What reaches the coefficients of one chunk, C floats each unless said otherwise.
struct Reached {
    float *by_b, *by_gam, *by_h0;  // C + 1 each: adjoints of b, gam, h0 where they are used directly
    float *last, *held_last;       // adjoints of reach and held in the chunk's last row
};

// Adjoints run down the columns of reach and held; one thread per column, one for the start of the chunk.
// Leaves each column's share of the gradients by keep, inject and momentum in place of
// direct, by_inject and by_momentum (C x C), and the start's share in starts (3 C).
__device__ __forceinline__ void adjoint_of_reach(const Coefficients& c, const Reached& d, const float* reach,
                                                 const float* held, const float* solved, float* direct,
                                                 float* by_inject, float* by_momentum, float* starts) {
    const int i = threadIdx.x;
    if (i < C) {
        float g = 0.0f, h = 0.0f;
        for (int t = C - 1; t >= i; --t) {
            const int at = t * ld_c + i;
            const bool end = t == C - 1;
            g = (end ? d.last[i] : c.keep[t + 1] * g + (ERASE ? c.erase[t + 1] * solved[at + ld_c] : 0.0f)) + direct[at];
            if (MOMENTUM) h = (end ? d.held_last[i] : c.momentum[t + 1] * h) + c.inject[t] * g;
            const bool later = t > i;
            direct[at] = later ? g * reach[at - ld_c] : 0.0f;
            by_inject[at] = MOMENTUM ? g * held[at] : (later ? 0.0f : g);
            if (MOMENTUM) by_momentum[at] = later ? h * held[at - ld_c] : 0.0f;
        }
    } else if (i == C) {
        float b = 0.0f, g = 0.0f, h = 0.0f;
        for (int t = C - 1; t >= 0; --t) {
            const float keep = t + 1 < C ? c.keep[t + 1] : 0.0f, momentum = t + 1 < C ? c.momentum[t + 1] : 0.0f;
            b = keep * b + d.by_b[t + 1];
            starts[t] = b * c.b[t];
            if (!MOMENTUM) continue;
            g = keep * g + d.by_gam[t + 1];
            h = momentum * h + c.inject[t] * g + (t == C - 1 ? d.by_h0[C] : 0.0f);
            starts[t] += g * c.gam[t];
            starts[C + t] = g * c.h0[t + 1];
            starts[2 * C + t] = h * c.h0[t];
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    affine_backward(const E* q, const E* k, const E* v, const E* d_out, long long q_batch, long long q_head,
                    long long q_token, long long k_batch, long long k_head, long long k_token, long long v_batch,
                    long long v_head, long long v_token, long long o_batch, long long o_head, long long o_token,
                    const float* keep, const float* erase, const float* write, const float* momentum,
                    const float* inject, const E* starts, const E* updates, const float* d_memory_end,
                    const float* d_surprise_end, float* dq, float* dk, E* dv, float* d_coefficients, float* d_memory,
                    float* d_surprise, int heads, int length) {
    HECATE_ARENA(arena);
    HECATE_CARVE(arena, E, keys, C * ld_k);
    HECATE_CARVE(arena, E, queries, C * ld_k);
    HECATE_CARVE(arena, E, m, R * ld_k);
    HECATE_CARVE(arena, E, s, MOMENTUM * R * ld_k + 1);
    HECATE_CARVE(arena, float, dm, R * (K + 1));
    HECATE_CARVE(arena, float, ds, MOMENTUM * R * (K + 1) + 1);
    HECATE_CARVE(arena, E, dm_narrow, narrow * R * ld_k + 1);
    HECATE_CARVE(arena, E, ds_narrow, narrow * MOMENTUM * R * ld_k + 1);
    E* const dm_copy = operand(dm, dm_narrow);
    E* const ds_copy = operand(ds, ds_narrow);
    HECATE_CARVE(arena, E, u, C * ld_r);
    HECATE_CARVE(arena, E, dy, C * ld_r);
    HECATE_CARVE(arena, E, du, C * ld_r);   // adjoint of u; after the solve it is d_right
    HECATE_CARVE(arena, E, d_right, C * ld_r);
    HECATE_CARVE(arena, E, by_last, C * ld_r);     // u seen by the end of the chunk
    HECATE_CARVE(arena, E, by_held, MOMENTUM * C * ld_r + 1);
    HECATE_CARVE(arena, E, by_erase, C * ld_r);    // -d_right as it pulls at the memory
    HECATE_CARVE(arena, E, by_erase_s, MOMENTUM * C * ld_r + 1);
    HECATE_CARVE(arena, E, by_read, C * ld_r);     // dy as it pulls at the memory
    HECATE_CARVE(arena, E, by_read_s, MOMENTUM * C * ld_r + 1);
    HECATE_CARVE(arena, float, fed, C * (R + 1));  // K dm^T, K ds^T
    HECATE_CARVE(arena, float, fed_s, MOMENTUM * C * (R + 1) + 1);
    HECATE_CARVE(arena, float, reach, C * ld_c);
    HECATE_CARVE(arena, float, held, MOMENTUM * C * ld_c + 1);
    HECATE_CARVE(arena, float, kk, C * ld_c);  // later: shares of the gradient by momentum
    HECATE_CARVE(arena, float, qk, C * ld_c);  // later: by inject
    HECATE_CARVE(arena, float, lower, C * ld_c);  // later: adjoint of reach; by keep
    HECATE_CARVE(arena, float, inverse, C * ld_c);  // later: adjoint of lower times kk
    HECATE_CARVE(arena, E, inverse_copy, narrow * C * ld_e + 1);
    HECATE_CARVE(arena, E, inside, C * ld_e);  // later: adjoint of q k^T
    HECATE_CARVE(arena, E, d_kk, C * ld_e);
    HECATE_CARVE(arena, float, scratch, C * C / 4);
    HECATE_CARVE(arena, float, sums, 9 * C + 3 * (C + 1));
    HECATE_CARVE(arena, float, warps, THREADS / 32);
    CARVE_COEFFICIENTS(arena, c);

    float* const d_erase = sums + 5 * C;
    float* const shares = sums + 6 * C;  // of the start of the chunk: keep, inject, momentum
    const Reached d{sums + 9 * C, sums + 10 * C + 1, sums + 11 * C + 2, sums, sums + C};
    float* const d_write = sums + 2 * C;
    float* const erased_m = sums + 3 * C;  // d_right . K m^T per token
    float* const erased_s = sums + 4 * C;

    const int row0 = blockIdx.x * R, batch = blockIdx.y / heads, head = blockIdx.y % heads;
    const long long text = (long long)blockIdx.y * length, state = (long long)blockIdx.y * HEAD_V * HEAD_K;
    const long long part = ((long long)blockIdx.x * gridDim.y + blockIdx.y) * length;  // of this row group
    const int chunks = (length + C - 1) / C;
    q += batch * q_batch + head * q_head;
    k += batch * k_batch + head * k_head;
    v += batch * v_batch + head * v_head;
    d_out += batch * o_batch + head * o_head;

    for (int i = threadIdx.x; i < R * K; i += THREADS) {
        const int r = i / K, x = i % K;
        const bool there = row0 + r < HEAD_V && x < HEAD_K;
        const long long at = state + (long long)(row0 + r) * HEAD_K + x;
        dm[r * (K + 1) + x] = there ? d_memory_end[at] : 0.0f;
        if (MOMENTUM) ds[r * (K + 1) + x] = there ? d_surprise_end[at] : 0.0f;
    }

    for (int n = chunks - 1; n >= 0; --n) {
        const int first = n * C;
        __syncthreads();
        load_rows<HEAD_K, K>(keys, ld_k, k, k_token, first, length);
        load_rows<HEAD_K, K>(queries, ld_k, q, q_token, first, length);
        load_rows<HEAD_V, R>(dy, ld_r, d_out, o_token, first, length, row0);
        load_rows<HEAD_V, R>(u, ld_r, updates + text * HEAD_V, HEAD_V, first, length, row0);
        load_coefficients(c, keep + text, erase + text, write + text, momentum + text, inject + text, first, length);
        for (int i = threadIdx.x; i < R * K; i += THREADS) {
            const int r = i / K, x = i % K;
            const bool there = row0 + r < HEAD_V && x < HEAD_K;
            const long long chunk = (long long)blockIdx.y * chunks + n;
            const long long at = (chunk * (1 + MOMENTUM) * HEAD_V + row0 + r) * HEAD_K + x;
            m[r * ld_k + x] = there ? starts[at] : from_float<E>(0.0f);
            if (narrow) dm_copy[r * ld_k + x] = from_float<E>(dm[r * (K + 1) + x]);
            if (MOMENTUM) {
                s[r * ld_k + x] = there ? starts[at + HEAD_V * HEAD_K] : from_float<E>(0.0f);
                if (narrow) ds_copy[r * ld_k + x] = from_float<E>(ds[r * (K + 1) + x]);
            }
        }
        __syncthreads();
        find_reach(c, reach, held);
        __syncthreads();

        compute<E, C, C>([&](auto& sum) { sum.template add<K, rows, turned>(queries, ld_k, keys, ld_k); },
                         [&](int t, int i, float x) {
                             qk[t * ld_c + i] = x;
                             inside[t * ld_e + i] = from_float<E>(i <= t ? reach[t * ld_c + i] * x : 0.0f);
                         });
        if (ERASE)
            compute<E, C, C>([&](auto& sum) { sum.template add<K, rows, turned>(keys, ld_k, keys, ld_k); },
                             [&](int t, int i, float x) {
                                 kk[t * ld_c + i] = x;
                                 lower[t * ld_c + i] = i < t ? c.erase[t] * reach[(t - 1) * ld_c + i] * x : 0.0f;
                             });
        compute<E, C, R>([&](auto& sum) { sum.template add<K, rows, turned>(keys, ld_k, dm_copy, ld_k); },
                         [&](int t, int r, float x) { fed[t * (R + 1) + r] = x; });
        if (MOMENTUM)
            compute<E, C, R>([&](auto& sum) { sum.template add<K, rows, turned>(keys, ld_k, ds_copy, ld_k); },
                             [&](int t, int r, float x) { fed_s[t * (R + 1) + r] = x; });
        // The ends of the chunk: <dm, m>, <dm, s>, <ds, s>, before dm and ds are carried over.
        float end_b = 0.0f, end_gam = 0.0f, end_h0 = 0.0f;
        for (int i = threadIdx.x; i < R * K; i += THREADS) {
            const int r = i / K, x = i % K;
            const float by_m = dm[r * (K + 1) + x];
            end_b += by_m * to_float(m[r * ld_k + x]);
            if (!MOMENTUM) continue;
            const float was = to_float(s[r * ld_k + x]);
            end_gam += by_m * was;
            end_h0 += ds[r * (K + 1) + x] * was;
        }
        __syncthreads();
        end_b = block_sum(end_b, warps);
        if (MOMENTUM) {
            end_gam = block_sum(end_gam, warps);
            end_h0 = block_sum(end_h0, warps);
        }
        if (ERASE) unit_lower_inverse<C>(lower, inverse, ld_c, scratch);
        const E* const solve = ERASE ? as_operand(inverse, inverse_copy) : inverse_copy;

        E* const unsolved = ERASE ? du : d_right;
        compute<E, C, R>([&](auto& sum) { sum.template add<C, turned, rows>(inside, ld_e, dy, ld_r); },
                         [&](int t, int r, float x) {
                             const int at = t * (R + 1) + r;
                             const float last = reach[(C - 1) * ld_c + t], kept = MOMENTUM ? held[(C - 1) * ld_c + t] : 0.0f;
                             unsolved[t * ld_r + r] =
                                 from_float<E>(x + last * fed[at] + (MOMENTUM ? kept * fed_s[at] : 0.0f));
                             const float wrote = to_float(u[t * ld_r + r]), asked = to_float(dy[t * ld_r + r]);
                             by_last[t * ld_r + r] = from_float<E>(last * wrote);
                             by_read[t * ld_r + r] = from_float<E>(c.b[t + 1] * asked);
                             if (!MOMENTUM) return;
                             by_held[t * ld_r + r] = from_float<E>(kept * wrote);
                             by_read_s[t * ld_r + r] = from_float<E>(c.gam[t + 1] * asked);
                         });
        __syncthreads();
        row_sums(R, [&](int t, int r) { return fed[t * (R + 1) + r] * to_float(u[t * ld_r + r]); },
                 [&](int t, float sum) { d.last[t] = sum; });
        if (MOMENTUM)
            row_sums(R, [&](int t, int r) { return fed_s[t * (R + 1) + r] * to_float(u[t * ld_r + r]); },
                     [&](int t, float sum) { d.held_last[t] = sum; });
        if (ERASE)
            compute<E, C, R>([&](auto& sum) { sum.template add<C, turned, rows>(solve, ld_inverse, du, ld_r); },
                             [&](int t, int r, float x) {
                                 d_right[t * ld_r + r] = from_float<E>(x);
                                 by_erase[t * ld_r + r] = from_float<E>(-c.erase[t] * c.b[t] * x);
                                 if (MOMENTUM) by_erase_s[t * ld_r + r] = from_float<E>(-c.erase[t] * c.gam[t] * x);
                             });
        __syncthreads();
        // What tokens read and erased of the chunk's first memory: adjoints of b and gam.
        compute<E, C, R>([&](auto& sum) { sum.template add<K, rows, turned>(queries, ld_k, m, ld_k); },
                         [&](int t, int r, float x) { fed[t * (R + 1) + r] = x; });
        if (MOMENTUM)
            compute<E, C, R>([&](auto& sum) { sum.template add<K, rows, turned>(queries, ld_k, s, ld_k); },
                             [&](int t, int r, float x) { fed_s[t * (R + 1) + r] = x; });
        compute<E, C, C>([&](auto& sum) { sum.template add<R, rows, turned>(dy, ld_r, u, ld_r); },
                         [&](int t, int i, float x) {
                             const bool seen = i <= t;
                             lower[t * ld_c + i] = seen ? x * qk[t * ld_c + i] : 0.0f;
                             inside[t * ld_e + i] = from_float<E>(seen ? x * reach[t * ld_c + i] : 0.0f);
                         });
        if (ERASE)
            compute<E, C, C>([&](auto& sum) { sum.template add<R, rows, turned>(d_right, ld_r, u, ld_r); },
                             [&](int t, int i, float x) {
                                 const bool seen = i < t;
                                 inverse[t * ld_c + i] = seen ? -x * kk[t * ld_c + i] : 0.0f;
                                 const float reached = seen ? reach[(t - 1) * ld_c + i] : 0.0f;
                                 d_kk[t * ld_e + i] = from_float<E>(-x * c.erase[t] * reached);
                             });
        __syncthreads();
        row_sums(R, [&](int t, int r) { return fed[t * (R + 1) + r] * to_float(dy[t * ld_r + r]); },
                 [&](int t, float sum) { d.by_b[t + 1] = sum; });
        if (MOMENTUM)
            row_sums(R, [&](int t, int r) { return fed_s[t * (R + 1) + r] * to_float(dy[t * ld_r + r]); },
                     [&](int t, float sum) { d.by_gam[t + 1] = sum; });
        row_sums(R,
                 [&](int t, int r) {
                     const bool there = first + t < length && row0 + r < HEAD_V;
                     return there ? to_float(d_right[t * ld_r + r]) * to_float(v[(first + t) * v_token + row0 + r]) : 0.0f;
                 },
                 [&](int t, float sum) { d_write[t] = sum; });
        __syncthreads();
        if (ERASE) {
            compute<E, C, R>([&](auto& sum) { sum.template add<K, rows, turned>(keys, ld_k, m, ld_k); },
                             [&](int t, int r, float x) { fed[t * (R + 1) + r] = x; });
            if (MOMENTUM)
                compute<E, C, R>([&](auto& sum) { sum.template add<K, rows, turned>(keys, ld_k, s, ld_k); },
                                 [&](int t, int r, float x) { fed_s[t * (R + 1) + r] = x; });
            __syncthreads();
            row_sums(R, [&](int t, int r) { return fed[t * (R + 1) + r] * to_float(d_right[t * ld_r + r]); },
                     [&](int t, float sum) { erased_m[t] = sum; });
            if (MOMENTUM)
                row_sums(R, [&](int t, int r) { return fed_s[t * (R + 1) + r] * to_float(d_right[t * ld_r + r]); },
                         [&](int t, float sum) { erased_s[t] = sum; });
            row_sums(C, [&](int t, int i) { return i < t ? inverse[t * ld_c + i] * reach[(t - 1) * ld_c + i] : 0.0f; },
                     [&](int t, float sum) { d_erase[t] = sum; });
            __syncthreads();
            for (int t = threadIdx.x; t < C; t += THREADS) {
                d_erase[t] -= c.b[t] * erased_m[t] + (MOMENTUM ? c.gam[t] * erased_s[t] : 0.0f);
                if (t) d.by_b[t] -= c.erase[t] * erased_m[t];
                if (t && MOMENTUM) d.by_gam[t] -= c.erase[t] * erased_s[t];
            }
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            d.by_b[C] += end_b;
            d.by_gam[C] = (MOMENTUM ? d.by_gam[C] : 0.0f) + end_gam;
            d.by_h0[C] = end_h0;
        }
        __syncthreads();
        adjoint_of_reach(c, d, reach, held, inverse, lower, qk, kk, shares);

        compute<E, C, K>(
            [&](auto& sum) {
                sum.template add<C, rows, rows>(inside, ld_e, keys, ld_k);
                sum.template add<R, rows, rows>(by_read, ld_r, m, ld_k);
                if constexpr (MOMENTUM) sum.template add<R, rows, rows>(by_read_s, ld_r, s, ld_k);
            },
            [&](int t, int x, float sum) {
                if (first + t < length && x < HEAD_K) dq[(part + first + t) * HEAD_K + x] = sum;
            });
        compute<E, C, K>(
            [&](auto& sum) {
                sum.template add<C, turned, rows>(inside, ld_e, queries, ld_k);
                sum.template add<R, rows, rows>(by_last, ld_r, dm_copy, ld_k);
                if constexpr (MOMENTUM) sum.template add<R, rows, rows>(by_held, ld_r, ds_copy, ld_k);
                if constexpr (ERASE) {
                    sum.template add<C, rows, rows>(d_kk, ld_e, keys, ld_k);
                    sum.template add<C, turned, rows>(d_kk, ld_e, keys, ld_k);
                    sum.template add<R, rows, rows>(by_erase, ld_r, m, ld_k);
                    if constexpr (MOMENTUM) sum.template add<R, rows, rows>(by_erase_s, ld_r, s, ld_k);
                }
            },
            [&](int t, int x, float sum) {
                if (first + t < length && x < HEAD_K) dk[(part + first + t) * HEAD_K + x] = sum;
            });
        for (int i = threadIdx.x; i < C * R; i += THREADS) {
            const int t = i / R, r = i % R;
            if (first + t < length && row0 + r < HEAD_V)
                dv[(text + first + t) * HEAD_V + row0 + r] = from_float<E>(c.write[t] * to_float(d_right[t * ld_r + r]));
        }
        if (!narrow) __syncthreads();  // dm and ds themselves were multiplied with
        // The momentum's adjoint first: it wants the memory's from the end of the chunk.
        if (MOMENTUM)
            compute<E, R, K>(
                [&](auto& sum) {
                    sum.template add<C, turned, rows>(by_read_s, ld_r, queries, ld_k);
                    if constexpr (ERASE) sum.template add<C, turned, rows>(by_erase_s, ld_r, keys, ld_k);
                },
                [&](int r, int x, float sum) {
                    const int at = r * (K + 1) + x;
                    ds[at] = c.h0[C] * ds[at] + c.gam[C] * dm[at] + sum;
                });
        compute<E, R, K>(
            [&](auto& sum) {
                sum.template add<C, turned, rows>(by_read, ld_r, queries, ld_k);
                if constexpr (ERASE) sum.template add<C, turned, rows>(by_erase, ld_r, keys, ld_k);
            },
            [&](int r, int x, float sum) {
                const int at = r * (K + 1) + x;
                dm[at] = c.b[C] * dm[at] + sum;
            });
        __syncthreads();

        // keep, erase, write, momentum, inject: [row groups, 5, batch and head, T]
        const long long count = (long long)gridDim.y * length;
        float* const out = d_coefficients + (long long)blockIdx.x * 5 * count + text + first;
        const auto put = [&](int which, int t, float x) {
            if (first + t < length) out[which * count + t] = x;
        };
        row_sums(C, [&](int t, int i) { return i <= t ? lower[t * ld_c + i] : 0.0f; },
                 [&](int t, float sum) { put(0, t, sum + shares[t]); });
        row_sums(C, [&](int t, int i) { return i <= t ? qk[t * ld_c + i] : 0.0f; },
                 [&](int t, float sum) { put(4, t, sum + (MOMENTUM ? shares[C + t] : 0.0f)); });
        if (MOMENTUM)
            row_sums(C, [&](int t, int i) { return i <= t ? kk[t * ld_c + i] : 0.0f; },
                     [&](int t, float sum) { put(3, t, sum + shares[2 * C + t]); });
        for (int t = threadIdx.x; t < C; t += THREADS) {
            put(1, t, ERASE ? d_erase[t] : 0.0f);
            put(2, t, d_write[t]);
            if (!MOMENTUM) put(3, t, 0.0f);
        }
    }
    for (int i = threadIdx.x; i < R * K; i += THREADS) {
        const int r = i / K, x = i % K;
        if (row0 + r >= HEAD_V || x >= HEAD_K) continue;
        const long long at = state + (long long)(row0 + r) * HEAD_K + x;
        d_memory[at] = dm[r * (K + 1) + x];
        if (MOMENTUM) d_surprise[at] = ds[r * (K + 1) + x];
    }
}
