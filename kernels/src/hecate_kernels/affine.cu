// The op `affine`, forward: reads, final memory and momentum; saves what the backward wants.
// The constants FORWARD and STEP choose what is compiled: forward, backward or the single token.
#include "hecate_device.cuh"

#if STEP
#include "affine_step.cuh"
#elif !FORWARD
#include "affine_backward.cuh"
#else
#include "affine_chunk.cuh"


extern "C" __global__ void __launch_bounds__(THREADS, 1)
    affine_forward(const E* q, const E* k, const E* v, long long q_batch, long long q_head, long long q_token,
                   long long k_batch, long long k_head, long long k_token, long long v_batch, long long v_head,
                   long long v_token, const float* keep,
                   const float* erase, const float* write, const float* momentum, const float* inject,
                   const float* memory, const float* surprise, E* y, float* memory_end, float* surprise_end, E* starts,
                   E* updates, int heads, int length) {
    HECATE_ARENA(arena);
    HECATE_CARVE(arena, E, keys, C * ld_k);
    HECATE_CARVE(arena, E, queries, C * ld_k);
    HECATE_CARVE(arena, E, values, C * ld_r);  // then the right side of the solve
    HECATE_CARVE(arena, E, u, C * ld_r);
    HECATE_CARVE(arena, E, u_last, C * ld_r);  // scaled by what the end of the chunk sees of it
    HECATE_CARVE(arena, E, u_held, MOMENTUM * C * ld_r + 1);
    HECATE_CARVE(arena, float, partial, C * (R + 1));
    HECATE_CARVE(arena, float, reach, C * ld_c);
    HECATE_CARVE(arena, float, held, MOMENTUM * C * ld_c + 1);
    HECATE_CARVE(arena, float, lower, C * ld_c);
    HECATE_CARVE(arena, float, inverse, C * ld_c);
    HECATE_CARVE(arena, E, inverse_copy, narrow * C * ld_e + 1);
    HECATE_CARVE(arena, E, inside, C * ld_e);
    HECATE_CARVE(arena, float, scratch, C * C / 4);
    HECATE_CARVE(arena, float, m, R * (K + 1));
    HECATE_CARVE(arena, float, s, MOMENTUM * R * (K + 1) + 1);
    HECATE_CARVE(arena, E, m_narrow, narrow * R * ld_k + 1);
    HECATE_CARVE(arena, E, s_narrow, narrow * MOMENTUM * R * ld_k + 1);
    CARVE_COEFFICIENTS(arena, c);
    E* const m_copy = operand(m, m_narrow);
    E* const s_copy = operand(s, s_narrow);

    const int row0 = blockIdx.x * R, batch = blockIdx.y / heads, head = blockIdx.y % heads;
    const long long text = (long long)blockIdx.y * length, state = (long long)blockIdx.y * HEAD_V * HEAD_K;
    const int chunks = (length + C - 1) / C;
    q += batch * q_batch + head * q_head;
    k += batch * k_batch + head * k_head;
    v += batch * v_batch + head * v_head;

    for (int i = threadIdx.x; i < R * K; i += THREADS) {
        const int r = i / K, x = i % K;
        const bool there = row0 + r < HEAD_V && x < HEAD_K;
        const long long at = state + (long long)(row0 + r) * HEAD_K + x;
        m[r * (K + 1) + x] = there ? memory[at] : 0.0f;
        if (MOMENTUM) s[r * (K + 1) + x] = there ? surprise[at] : 0.0f;
    }

    for (int n = 0; n < chunks; ++n) {
        const int first = n * C;
        load_rows<HEAD_K, K>(keys, ld_k, k, k_token, first, length);
        load_rows<HEAD_K, K>(queries, ld_k, q, q_token, first, length);
        load_rows<HEAD_V, R>(values, ld_r, v, v_token, first, length, row0);
        load_coefficients(c, keep + text, erase + text, write + text, momentum + text, inject + text, first, length);
        __syncthreads();
        // The operand copy of the state, kept for the backward as well.
        for (int i = threadIdx.x; i < R * K; i += THREADS) {
            const int r = i / K, x = i % K;
            const E rounded = from_float<E>(m[r * (K + 1) + x]);
            if (narrow) m_copy[r * ld_k + x] = rounded;
            if (narrow && MOMENTUM) s_copy[r * ld_k + x] = from_float<E>(s[r * (K + 1) + x]);
            if (SAVE && row0 + r < HEAD_V && x < HEAD_K) {
                const long long chunk = (long long)blockIdx.y * chunks + n;
                const long long at = (chunk * (1 + MOMENTUM) * HEAD_V + row0 + r) * HEAD_K + x;
                starts[at] = rounded;
                if (MOMENTUM) starts[at + HEAD_V * HEAD_K] = s_copy[r * ld_k + x];
            }
        }
        find_reach(c, reach, held);
        __syncthreads();

        compute<E, C, C>([&](auto& sum) { sum.template add<K, rows, turned>(queries, ld_k, keys, ld_k); },
                         [&](int t, int i, float qk) {
                             inside[t * ld_e + i] = from_float<E>(i <= t ? reach[t * ld_c + i] * qk : 0.0f);
                         });
        const E* solve = inverse_copy;
        if (ERASE) {
            compute<E, C, C>([&](auto& sum) { sum.template add<K, rows, turned>(keys, ld_k, keys, ld_k); },
                             [&](int t, int i, float kk) {
                                 lower[t * ld_c + i] = i < t ? c.erase[t] * reach[(t - 1) * ld_c + i] * kk : 0.0f;
                             });
            __syncthreads();
            unit_lower_inverse<C>(lower, inverse, ld_c, scratch);
            solve = as_operand(inverse, inverse_copy);
            compute<E, C, R>([&](auto& sum) { sum.template add<K, rows, turned>(keys, ld_k, m_copy, ld_k); },
                             [&](int t, int r, float seen) { partial[t * (R + 1) + r] = c.b[t] * seen; });
            if (MOMENTUM)
                compute<E, C, R>([&](auto& sum) { sum.template add<K, rows, turned>(keys, ld_k, s_copy, ld_k); },
                                 [&](int t, int r, float seen) { partial[t * (R + 1) + r] += c.gam[t] * seen; });
        }
        __syncthreads();
        for (int i = threadIdx.x; i < C * R; i += THREADS) {
            const int t = i / R, r = i % R;
            const float seen = ERASE ? c.erase[t] * partial[t * (R + 1) + r] : 0.0f;
            values[t * ld_r + r] = from_float<E>(c.write[t] * to_float(values[t * ld_r + r]) - seen);
        }
        __syncthreads();
        const auto keep_update = [&](int t, int r, float x) {
            u[t * ld_r + r] = from_float<E>(x);
            u_last[t * ld_r + r] = from_float<E>(x * reach[(C - 1) * ld_c + t]);
            if (MOMENTUM) u_held[t * ld_r + r] = from_float<E>(x * held[(C - 1) * ld_c + t]);
            if (SAVE && first + t < length && row0 + r < HEAD_V)
                updates[(text + first + t) * HEAD_V + row0 + r] = from_float<E>(x);
        };
        if (ERASE) {
            compute<E, C, R>([&](auto& sum) { sum.template add<C, rows, rows>(solve, ld_inverse, values, ld_r); }, keep_update);
        } else {
            for (int i = threadIdx.x; i < C * R; i += THREADS) keep_update(i / R, i % R, to_float(values[i / R * ld_r + i % R]));
        }
        compute<E, C, R>([&](auto& sum) { sum.template add<K, rows, turned>(queries, ld_k, m_copy, ld_k); },
                         [&](int t, int r, float x) { partial[t * (R + 1) + r] = c.b[t + 1] * x; });
        if (MOMENTUM)
            compute<E, C, R>([&](auto& sum) { sum.template add<K, rows, turned>(queries, ld_k, s_copy, ld_k); },
                             [&](int t, int r, float x) { partial[t * (R + 1) + r] += c.gam[t + 1] * x; });
        __syncthreads();
        compute<E, C, R>([&](auto& sum) { sum.template add<C, rows, rows>(inside, ld_e, u, ld_r); },
                         [&](int t, int r, float x) {
                             if (first + t < length && row0 + r < HEAD_V)
                                 y[(text + first + t) * HEAD_V + row0 + r] = from_float<E>(x + partial[t * (R + 1) + r]);
                         });
        compute<E, R, K>([&](auto& sum) { sum.template add<C, turned, rows>(u_last, ld_r, keys, ld_k); },
                         [&](int r, int x, float wrote) {
                             const int at = r * (K + 1) + x;
                             m[at] = c.b[C] * m[at] + (MOMENTUM ? c.gam[C] * s[at] : 0.0f) + wrote;
                         });
        if (MOMENTUM)
            compute<E, R, K>([&](auto& sum) { sum.template add<C, turned, rows>(u_held, ld_r, keys, ld_k); },
                             [&](int r, int x, float wrote) {
                                 const int at = r * (K + 1) + x;
                                 s[at] = c.h0[C] * s[at] + wrote;
                             });
        __syncthreads();
    }
    for (int i = threadIdx.x; i < R * K; i += THREADS) {
        const int r = i / K, x = i % K;
        if (row0 + r >= HEAD_V || x >= HEAD_K) continue;
        const long long at = state + (long long)(row0 + r) * HEAD_K + x;
        memory_end[at] = m[r * (K + 1) + x];
        if (MOMENTUM) surprise_end[at] = s[r * (K + 1) + x];
    }
}
#endif
