// The op `affine_column`: one kernel per direction. The constants FORWARD and STEP choose what is compiled: forward,
// backward or the single token.
#include "hecate_device.cuh"

#if STEP
#include "column_step.cuh"
#else
#include "column_chunk.cuh"
#endif

#if STEP
#elif FORWARD
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    column_forward(const E* q, const E* k, const E* v, long long q_batch, long long q_head, long long q_token,
                   long long k_batch, long long k_head, long long k_token, long long v_batch, long long v_head,
                   long long v_token, const float* keep, const float* erase, const float* write, const float* memory,
                   E* y, float* memory_end, E* starts, E* updates, int heads, int length) {
    HECATE_ARENA(arena);
    HECATE_CARVE(arena, E, keys, C * ld_k);
    HECATE_CARVE(arena, E, queries, C * ld_k);
    HECATE_CARVE(arena, E, asked, C * ld_k);
    HECATE_CARVE(arena, E, erased, C * ld_k);
    HECATE_CARVE(arena, E, left, C * ld_k);
    HECATE_CARVE(arena, float, keeps, C * ld_f);
    HECATE_CARVE(arena, float, erases, C * ld_f);
    HECATE_CARVE(arena, float, remains, K);
    HECATE_CARVE(arena, float, writes, C);
    HECATE_CARVE(arena, E, values, C * ld_r);
    HECATE_CARVE(arena, E, u, C * ld_r);
    HECATE_CARVE(arena, float, lower, C * ld_c);
    HECATE_CARVE(arena, float, inverse, C * ld_c);
    HECATE_CARVE(arena, E, inverse_copy, narrow * C * ld_e + 1);
    HECATE_CARVE(arena, E, inside, C * ld_e);
    HECATE_CARVE(arena, float, scratch, C * C / 4);
    HECATE_CARVE(arena, float, m, R * ld_f);
    HECATE_CARVE(arena, E, m_narrow, narrow * R * ld_k + 1);
    E* const m_copy = operand(m, m_narrow);

    const int row0 = blockIdx.x * R, batch = blockIdx.y / heads, head = blockIdx.y % heads;
    const long long text = (long long)blockIdx.y * length, state = (long long)blockIdx.y * HEAD_V * HEAD_K;
    const int chunks = (length + C - 1) / C;
    q += batch * q_batch + head * q_head;
    k += batch * k_batch + head * k_head;
    v += batch * v_batch + head * v_head;

    for (int i = threadIdx.x; i < R * K; i += THREADS) {
        const int r = i / K, x = i % K;
        const bool there = row0 + r < HEAD_V && x < HEAD_K;
        m[r * ld_f + x] = there ? memory[state + (long long)(row0 + r) * HEAD_K + x] : 0.0f;
    }
    for (int n = 0; n < chunks; ++n) {
        const int first = n * C;
        load_rows<HEAD_K, K>(keys, ld_k, k, k_token, first, length);
        load_rows<HEAD_K, K>(queries, ld_k, q, q_token, first, length);
        load_rows<HEAD_V, R>(values, ld_r, v, v_token, first, length, row0);
        load_channels(keeps, erases, writes, keep + text * HEAD_K, ERASE ? erase + text * HEAD_K : erase, write + text,
                      first, length);
        for (int i = threadIdx.x; i < R * K; i += THREADS) {
            const int r = i / K, x = i % K;
            const E rounded = from_float<E>(m[r * ld_f + x]);
            if (narrow) m_copy[r * ld_k + x] = rounded;
            const long long chunk = (long long)blockIdx.y * chunks + n;
            if (row0 + r < HEAD_V && x < HEAD_K) starts[(chunk * HEAD_V + row0 + r) * HEAD_K + x] = rounded;
        }
        __syncthreads();
        find_views(keys, queries, keeps, erases, asked, erased, left, remains);
        find_scores(keys, queries, keeps, erases, inside, lower);
        __syncthreads();
        if (ERASE) {
            unit_lower_inverse<C>(lower, inverse, ld_c, scratch);
            compute<E, C, R>([&](auto& sum) { sum.template add<K, rows, turned>(erased, ld_k, m_copy, ld_k); },
                             [&](int t, int r, float seen) {
                                 const int at = t * ld_r + r;
                                 values[at] = from_float<E>(writes[t] * to_float(values[at]) - seen);
                             });
        } else {
            for (int i = threadIdx.x; i < C * R; i += THREADS) {
                const int at = i / R * ld_r + i % R;
                values[at] = from_float<E>(writes[i / R] * to_float(values[at]));
            }
        }
        const E* const solve = ERASE ? as_operand(inverse, inverse_copy) : inverse_copy;
        __syncthreads();
        const auto keep_update = [&](int t, int r, float x) {
            u[t * ld_r + r] = from_float<E>(x);
            if (first + t < length && row0 + r < HEAD_V)
                updates[(text + first + t) * HEAD_V + row0 + r] = from_float<E>(x);
        };
        if (ERASE) {
            compute<E, C, R>([&](auto& sum) { sum.template add<C, rows, rows>(solve, ld_inverse, values, ld_r); },
                             keep_update);
        } else {
            for (int i = threadIdx.x; i < C * R; i += THREADS)
                keep_update(i / R, i % R, to_float(values[i / R * ld_r + i % R]));
        }
        __syncthreads();
        compute<E, C, R>(
            [&](auto& sum) {
                sum.template add<K, rows, turned>(asked, ld_k, m_copy, ld_k);
                sum.template add<C, rows, rows>(inside, ld_e, u, ld_r);
            },
            [&](int t, int r, float x) {
                if (first + t < length && row0 + r < HEAD_V)
                    y[(text + first + t) * HEAD_V + row0 + r] = from_float<E>(x);
            });
        if (!narrow) __syncthreads();  // the memory itself was multiplied with
        compute<E, R, K>([&](auto& sum) { sum.template add<C, turned, rows>(u, ld_r, left, ld_k); },
                         [&](int r, int x, float wrote) { m[r * ld_f + x] = remains[x] * m[r * ld_f + x] + wrote; });
        __syncthreads();
    }
    for (int i = threadIdx.x; i < R * K; i += THREADS) {
        const int r = i / K, x = i % K;
        if (row0 + r < HEAD_V && x < HEAD_K) memory_end[state + (long long)(row0 + r) * HEAD_K + x] = m[r * ld_f + x];
    }
}
#else

// Everything that is separate per channel: gradients by q, k, keep and erase of one chunk, one thread each.
// `d_inside` and `d_lower` are the adjoints of the scores; by_read, by_erase, by_end (C x K) what reads,
// erasures and the end of the chunk took of the memory (by_end becomes the gradient by k as the scores
// see it); `ended` the adjoint of what remains of it.
__device__ __forceinline__ void channel_gradients(const E* keys, const E* queries, const float* keep, const float* erase,
                                                  const float* d_inside, const float* d_lower, const float* by_read,
                                                  const float* by_erase, float* by_end, float ended,
                                                  float* const* out, long long at, int count) {
    const int x = threadIdx.x;
    if (x >= HEAD_K) return;
    float dq[C], de[C], dkeep[C], start[C];
    float b = 1.0f;
#pragma unroll
    for (int t = 0; t < C; ++t) {  // b before token t
        start[t] = b;
        b *= keep[t * ld_f + x];
    }
    float carried = ended;
#pragma unroll
    for (int t = C - 1; t >= 0; --t) {
        const float kt = keep[t * ld_f + x], erased = ERASE ? erase[t * ld_f + x] * to_float(keys[t * ld_k + x]) : 0.0f;
        carried += by_read[t * ld_f + x] * to_float(queries[t * ld_k + x]);  // now the adjoint of b after t
        dq[t] = start[t] * kt * by_read[t * ld_f + x];
        dkeep[t] = carried * start[t];
        de[t] = ERASE ? -start[t] * by_erase[t * ld_f + x] : 0.0f;
        carried = kt * carried - (ERASE ? erased * by_erase[t * ld_f + x] : 0.0f);
    }
#pragma unroll 1
    for (int i = 0; i < C; ++i) {  // tokens before i are passed over, so that t stays a constant
        float seen[C];             // k_i as token t sees it
        float carry = to_float(keys[i * ld_k + x]);
#pragma unroll
        for (int t = 0; t < C; ++t) {
            if (t > i) carry *= keep[t * ld_f + x];
            seen[t] = carry;
        }
        float g = by_end[i * ld_f + x];  // adjoint of seen[t]
#pragma unroll
        for (int t = C - 1; t >= 0; --t) {
            if (t < i) continue;
            g += d_inside[t * ld_c + i] * to_float(queries[t * ld_k + x]);
            dq[t] += d_inside[t * ld_c + i] * seen[t];
            if (t == 0 || t == i) continue;
            const float before = seen[t > 0 ? t - 1 : 0];
            dkeep[t] += g * before;
            g *= keep[t * ld_f + x];
            if (!ERASE) continue;
            de[t] += d_lower[t * ld_c + i] * before;
            g += d_lower[t * ld_c + i] * erase[t * ld_f + x] * to_float(keys[t * ld_k + x]);
        }
        by_end[i * ld_f + x] = g;
    }
#pragma unroll
    for (int t = 0; t < C; ++t) {
        if (t >= count) continue;
        const long long here = at + (long long)t * HEAD_K + x;
        out[0][here] = dq[t];
        out[1][here] = by_end[t * ld_f + x] + (ERASE ? de[t] * erase[t * ld_f + x] : 0.0f);
        out[2][here] = dkeep[t];
        out[3][here] = ERASE ? de[t] * to_float(keys[t * ld_k + x]) : 0.0f;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    column_backward(const E* q, const E* k, const E* v, const E* d_out, long long q_batch, long long q_head,
                    long long q_token, long long k_batch, long long k_head, long long k_token, long long v_batch,
                    long long v_head, long long v_token, long long o_batch, long long o_head, long long o_token,
                    const float* keep, const float* erase, const float* write, const E* starts, const E* updates,
                    const float* d_memory_end, float* dq, float* dk, float* d_keep, float* d_erase, E* dv,
                    float* d_write, float* d_memory, int heads, int length) {
    HECATE_ARENA(arena);
    HECATE_CARVE(arena, E, keys, C * ld_k);
    HECATE_CARVE(arena, E, queries, C * ld_k);
    HECATE_CARVE(arena, E, asked, C * ld_k);
    HECATE_CARVE(arena, E, erased, C * ld_k);
    HECATE_CARVE(arena, E, left, C * ld_k);
    HECATE_CARVE(arena, float, keeps, C * ld_f);
    HECATE_CARVE(arena, float, erases, C * ld_f);
    HECATE_CARVE(arena, float, remains, K);
    HECATE_CARVE(arena, float, writes, C);
    HECATE_CARVE(arena, float, by_read, C * ld_f);
    HECATE_CARVE(arena, float, by_erase, C * ld_f);
    HECATE_CARVE(arena, float, by_end, C * ld_f);
    HECATE_CARVE(arena, E, u, C * ld_r);
    HECATE_CARVE(arena, E, dy, C * ld_r);
    HECATE_CARVE(arena, E, du, C * ld_r);
    HECATE_CARVE(arena, E, d_right, C * ld_r);
    HECATE_CARVE(arena, E, pulled, C * ld_r);  // -d_right
    HECATE_CARVE(arena, float, lower, C * ld_c);    // later: its adjoint
    HECATE_CARVE(arena, float, inverse, C * ld_c);  // later: adjoint of inside
    HECATE_CARVE(arena, E, inverse_copy, narrow * C * ld_e + 1);
    HECATE_CARVE(arena, E, inside, C * ld_e);
    HECATE_CARVE(arena, float, scratch, C * C / 4);
    HECATE_CARVE(arena, E, m, R * ld_k);
    HECATE_CARVE(arena, float, dm, R * ld_f);
    HECATE_CARVE(arena, E, dm_narrow, narrow * R * ld_k + 1);
    E* const dm_copy = operand(dm, dm_narrow);

    const int row0 = blockIdx.x * R, batch = blockIdx.y / heads, head = blockIdx.y % heads;
    const long long text = (long long)blockIdx.y * length, state = (long long)blockIdx.y * HEAD_V * HEAD_K;
    const long long part = ((long long)blockIdx.x * gridDim.y + blockIdx.y) * length;  // of this row group
    const int chunks = (length + C - 1) / C;
    q += batch * q_batch + head * q_head;
    k += batch * k_batch + head * k_head;
    v += batch * v_batch + head * v_head;
    d_out += batch * o_batch + head * o_head;
    float* const out[4] = {dq, dk, d_keep, d_erase};

    for (int i = threadIdx.x; i < R * K; i += THREADS) {
        const int r = i / K, x = i % K;
        const bool there = row0 + r < HEAD_V && x < HEAD_K;
        dm[r * ld_f + x] = there ? d_memory_end[state + (long long)(row0 + r) * HEAD_K + x] : 0.0f;
    }
    for (int n = chunks - 1; n >= 0; --n) {
        const int first = n * C;
        __syncthreads();
        load_rows<HEAD_K, K>(keys, ld_k, k, k_token, first, length);
        load_rows<HEAD_K, K>(queries, ld_k, q, q_token, first, length);
        load_rows<HEAD_V, R>(dy, ld_r, d_out, o_token, first, length, row0);
        load_rows<HEAD_V, R>(u, ld_r, updates + text * HEAD_V, HEAD_V, first, length, row0);
        load_channels(keeps, erases, writes, keep + text * HEAD_K, ERASE ? erase + text * HEAD_K : erase, write + text,
                      first, length);
        for (int i = threadIdx.x; i < R * K; i += THREADS) {
            const int r = i / K, x = i % K;
            const bool there = row0 + r < HEAD_V && x < HEAD_K;
            const long long chunk = (long long)blockIdx.y * chunks + n;
            m[r * ld_k + x] = there ? starts[(chunk * HEAD_V + row0 + r) * HEAD_K + x] : from_float<E>(0.0f);
            if (narrow) dm_copy[r * ld_k + x] = from_float<E>(dm[r * ld_f + x]);
        }
        __syncthreads();
        find_views(keys, queries, keeps, erases, asked, erased, left, remains);
        find_scores(keys, queries, keeps, erases, inside, lower);
        __syncthreads();
        if (ERASE) unit_lower_inverse<C>(lower, inverse, ld_c, scratch);
        const E* const solve = ERASE ? as_operand(inverse, inverse_copy) : inverse_copy;
        E* const unsolved = ERASE ? du : d_right;
        compute<E, C, R>(
            [&](auto& sum) {
                sum.template add<C, turned, rows>(inside, ld_e, dy, ld_r);
                sum.template add<K, rows, turned>(left, ld_k, dm_copy, ld_k);
            },
            [&](int t, int r, float x) { unsolved[t * ld_r + r] = from_float<E>(x); });
        __syncthreads();
        if (ERASE)
            compute<E, C, R>([&](auto& sum) { sum.template add<C, turned, rows>(solve, ld_inverse, du, ld_r); },
                             [&](int t, int r, float x) {
                                 d_right[t * ld_r + r] = from_float<E>(x);
                                 pulled[t * ld_r + r] = from_float<E>(-x);
                             });
        compute<E, C, K>([&](auto& sum) { sum.template add<R, rows, rows>(dy, ld_r, m, ld_k); },
                         [&](int t, int x, float value) { by_read[t * ld_f + x] = value; });
        compute<E, C, K>([&](auto& sum) { sum.template add<R, rows, rows>(u, ld_r, dm_copy, ld_k); },
                         [&](int t, int x, float value) { by_end[t * ld_f + x] = value; });
        __syncthreads();
        compute<E, C, C>([&](auto& sum) { sum.template add<R, rows, turned>(dy, ld_r, u, ld_r); },
                         [&](int t, int i, float x) { inverse[t * ld_c + i] = i <= t ? x : 0.0f; });
        if (ERASE) {
            compute<E, C, C>([&](auto& sum) { sum.template add<R, rows, turned>(pulled, ld_r, u, ld_r); },
                             [&](int t, int i, float x) { lower[t * ld_c + i] = i < t ? x : 0.0f; });
            compute<E, C, K>([&](auto& sum) { sum.template add<R, rows, rows>(d_right, ld_r, m, ld_k); },
                             [&](int t, int x, float value) { by_erase[t * ld_f + x] = value; });
        }
        row_sums(R,
                 [&](int t, int r) {
                     const bool there = first + t < length && row0 + r < HEAD_V;
                     return there ? to_float(d_right[t * ld_r + r]) * to_float(v[(first + t) * v_token + row0 + r]) : 0.0f;
                 },
                 [&](int t, float sum) {
                     if (first + t < length) d_write[part + first + t] = sum;
                 });
        for (int i = threadIdx.x; i < C * R; i += THREADS) {
            const int t = i / R, r = i % R;
            if (first + t < length && row0 + r < HEAD_V)
                dv[(text + first + t) * HEAD_V + row0 + r] = from_float<E>(writes[t] * to_float(d_right[t * ld_r + r]));
        }
        __syncthreads();
        float ended = 0.0f;
        if (threadIdx.x < K)
            for (int r = 0; r < R; ++r) ended += dm[r * ld_f + threadIdx.x] * to_float(m[r * ld_k + threadIdx.x]);
        channel_gradients(keys, queries, keeps, erases, inverse, lower, by_read, by_erase, by_end, ended, out,
                          (part + first) * HEAD_K, length - first);
        __syncthreads();
        compute<E, R, K>(
            [&](auto& sum) {
                sum.template add<C, turned, rows>(dy, ld_r, asked, ld_k);
                if constexpr (ERASE) sum.template add<C, turned, rows>(pulled, ld_r, erased, ld_k);
            },
            [&](int r, int x, float sum) { dm[r * ld_f + x] = remains[x] * dm[r * ld_f + x] + sum; });
    }
    __syncthreads();
    for (int i = threadIdx.x; i < R * K; i += THREADS) {
        const int r = i / K, x = i % K;
        if (row0 + r < HEAD_V && x < HEAD_K) d_memory[state + (long long)(row0 + r) * HEAD_K + x] = dm[r * ld_f + x];
    }
}
#endif
