// The op `linked_linear`: reads through a link of weights that decay and grow by known rank-one updates. A block forms
// the evidence of one token at a time, A_t = sum_j shares_tj Z_j + sum_i reach_ti u_i x_i^T, and goes on to the next.
//
// Compile-time constants: HEAD_K, HEAD_V, CHUNK (updates, padded), PARTS (stored matrices Z), THREADS, ELEMENT, FORWARD,
// STEP, LINK (below), EXPONENT (of norms), NEAR (2: all in shared memory; 1: the evidence in the block's
// workspace; 0: updates and inputs too). `level` is the mass of the first three, the floor of the next two, the scale
// or threshold of the rest. Sums in fp32, no atomics. Equations: specs/knobs/kl.md, lq.md, bregman.md, elastic-ftrl.md
// and specs/forms/linearised.md, Eq. 11.
#include "hecate_device.cuh"

#include "hecate/reductions.cuh"
#include "hecate/tiles.cuh"

using E = ELEMENT;

enum Link {  // the order of hecate_miras.links.KINDS; from `exponential` on every entry by itself
    column_shares, row_shares, all_shares, printed, powered, exponential, logistic, hyperbolic, soft, arctangent
};
constexpr Link link = static_cast<Link>(LINK);
constexpr bool by_entry = link >= exponential;
constexpr bool simplex = link == column_shares || link == row_shares || link == all_shares;
constexpr bool steep = link == powered && EXPONENT < 2.0f;  // its slope has no bound where evidence vanishes
constexpr int C = CHUNK, V = (HEAD_V + 15) / 16 * 16, K = (HEAD_K + 15) / 16 * 16;  // padded with zeros
constexpr int ld_v = V + 1, ld_k = K + 1, warps = THREADS / 32;
constexpr int evidence = V * ld_k, texts = C * (2 * ld_v + ld_k);                    // floats of one block
constexpr int workspace = (NEAR < 2 ? evidence : 0) + (NEAR < 1 ? texts : 0);
constexpr int beside = C < 32 || NEAR < 1 ? 32 : 1;  // threads on one update: alone, they read odd rows side by side
constexpr long long matrix = (long long)HEAD_V * HEAD_K;
constexpr float lowest = -3.4028235e38f, per_turn = 0.63661977f;                     // 2 / pi

// What a block works on; `a` is evidence, then shares or ratios to the norm, then the adjoint of the evidence.
struct Work {
    float *a, *u, *x, *moved;         // V x K, C x V, C x K, C x V
    float *q, *dy, *by_row, *by_column, *reach, *scratch;
};

#define CARVE_WORK(arena, w)                                      \
    HECATE_CARVE(arena, float, w##_q, K);                         \
    HECATE_CARVE(arena, float, w##_dy, V);                        \
    HECATE_CARVE(arena, float, w##_by_row, V);                    \
    HECATE_CARVE(arena, float, w##_by_column, K);                 \
    HECATE_CARVE(arena, float, w##_reach, C);                     \
    HECATE_CARVE(arena, float, w##_scratch, warps);               \
    HECATE_CARVE(arena, float, w##_near_a, NEAR == 2 ? evidence : 1); \
    HECATE_CARVE(arena, float, w##_near_texts, NEAR >= 1 ? texts : 1); \
    float* const w##_far = space + (long long)blockIdx.x * workspace;  \
    float* const w##_texts = NEAR >= 1 ? w##_near_texts : w##_far + evidence; \
    const Work w{NEAR == 2 ? w##_near_a : w##_far, w##_texts, w##_texts + C * ld_v, w##_texts + C * (ld_v + ld_k), \
                 w##_q, w##_dy, w##_by_row, w##_by_column, w##_reach, w##_scratch}

__device__ __forceinline__ float warp_max(float x) {
    for (int offset = 16; offset; offset >>= 1) x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, offset));
    return x;
}

// As `block_sum`, of the largest.
__device__ __forceinline__ float block_max(float x, float* scratch) {
    x = warp_max(x);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    float largest = scratch[0];
    for (int i = 1; i < warps; ++i) largest = fmaxf(largest, scratch[i]);
    __syncthreads();
    return largest;
}

// x^p of x >= 0, p known at compile time.
__device__ __forceinline__ float power(float x, float p) {
    if (p == 0.0f) return 1.0f;
    if (p == 1.0f) return x;
    if (p == 2.0f) return x * x;
    if (p == 3.0f) return x * x * x;
    return powf(x, p);
}

__device__ __forceinline__ float signed_power(float x, float p) { return copysignf(power(fabsf(x), p), x); }

// Calls with every real entry and its place, entries of a row on neighbouring threads.
template <class Each>
__device__ __forceinline__ void over_evidence(float* a, Each each) {
    for (int i = threadIdx.x; i < HEAD_V * HEAD_K; i += THREADS) each(a[i / HEAD_K * ld_k + i % HEAD_K], i / HEAD_K, i % HEAD_K);
}

// Rows of a [count, width] text as fp32 rows, zeros beyond.
__device__ __forceinline__ void load_text(float* to, int ld, int padded, const E* from, int width, int count) {
    for (int i = threadIdx.x; i < C * padded; i += THREADS) {
        const int t = i / padded, at = i % padded;
        to[t * ld + at] = t < count && at < width ? to_float(from[(long long)t * width + at]) : 0.0f;
    }
}

__device__ __forceinline__ void load_row(float* to, int padded, const E* from, int width) {
    for (int i = threadIdx.x; i < padded; i += THREADS) to[i] = i < width ? to_float(from[i]) : 0.0f;
}

// A_t; starts behind a barrier after the reach is there and ends with one. Under a steep link the smallest evidence
// decides the gradient, so it is summed in double: right to its own size and not to that of its terms.
__device__ __forceinline__ void form(const Work& w, const float* stored, const float* shares) {
    if (steep) {
        for (int i = threadIdx.x; i < V * K; i += THREADS) {
            const int v = i / K, k = i % K;
            double value = 0.0;
            for (int c = 0; c < C; ++c) value += (double)w.reach[c] * w.u[c * ld_v + v] * w.x[c * ld_k + k];
            if (v < HEAD_V && k < HEAD_K)
                for (int j = 0; j < PARTS; ++j)
                    value += (double)shares[j] * stored[j * matrix + (long long)v * HEAD_K + k];
            w.a[v * ld_k + k] = (float)value;
        }
        __syncthreads();
        return;
    }
    for (int i = threadIdx.x; i < C * V; i += THREADS)
        w.moved[i / V * ld_v + i % V] = w.reach[i / V] * w.u[i / V * ld_v + i % V];
    __syncthreads();
    compute<float, V, K>([&](auto& sum) { sum.template add<C, turned, rows>(w.moved, ld_v, w.x, ld_k); },
                         [&](int v, int k, float value) {
                             if (v < HEAD_V && k < HEAD_K)
                                 for (int j = 0; j < PARTS; ++j)
                                     value += shares[j] * stored[j * matrix + (long long)v * HEAD_K + k];
                             w.a[v * ld_k + k] = value;
                         });
    __syncthreads();
}

// A warp turns `count` numbers, `step` apart, into shares of the mass.
__device__ __forceinline__ void share_out(float* first, int step, int count, float mass) {
    const int lane = threadIdx.x % 32;
    float largest = lowest, total = 0.0f;
    for (int i = lane; i < count; i += 32) largest = fmaxf(largest, first[i * step]);
    largest = warp_max(largest);
    for (int i = lane; i < count; i += 32) total += expf(first[i * step] - largest);
    const float scale = mass / warp_sum(total);
    for (int i = lane; i < count; i += 32) first[i * step] = scale * expf(first[i * step] - largest);
}

// Evidence becomes shares of the mass, or ratios to its norm, which is returned, or stays. Ends with a barrier.
__device__ __forceinline__ float measure(const Work& w, float level) {
    float size = level;
    if (by_entry) return size;
    if (link == column_shares) {
        for (int k = threadIdx.x / 32; k < HEAD_K; k += warps) share_out(w.a + k, ld_k, HEAD_V, level);
    } else if (link == row_shares) {
        for (int v = threadIdx.x / 32; v < HEAD_V; v += warps) share_out(w.a + v * ld_k, 1, HEAD_K, level);
    } else {
        float largest = simplex ? lowest : level, total = 0.0f;
        over_evidence(w.a, [&](float& a, int, int) { largest = fmaxf(largest, simplex ? a : fabsf(a)); });
        largest = block_max(largest, w.scratch);
        over_evidence(w.a, [&](float& a, int, int) {
            total += simplex ? expf(a - largest) : power(fabsf(a) / largest, EXPONENT);
        });
        total = block_sum(total, w.scratch);
        if (!simplex) size = fmaxf(level, largest * powf(total, 1.0f / EXPONENT));
        over_evidence(w.a, [&](float& a, int, int) {
            a = simplex ? level / total * expf(a - largest) : a / size;
        });
    }
    __syncthreads();
    return size;
}

// A weight is `factor` times `shape` of what `measure` left.
__device__ __forceinline__ float shape(float a, float level) {
    if (link == powered) return signed_power(a, EXPONENT - 1.0f);
    if (link == exponential) return expf(a);
    if (link == logistic) return 1.0f / (1.0f + expf(-a));
    if (link == hyperbolic) return level * sinhf(a);
    if (link == soft) return fabsf(a) <= level ? 0.0f : a - copysignf(level, a);  // NaN stays NaN
    if (link == arctangent) return a * fabsf(atanf(a / level)) * per_turn;
    return a;
}
__device__ __forceinline__ float factor(float size) {
    return simplex || by_entry ? 1.0f : link == powered ? size : powf(size, 3.0f - EXPONENT);
}

// The derivative of a `shape` of one entry.
__device__ __forceinline__ float slope(float a, float level) {
    if (link == exponential) return expf(a);
    if (link == logistic) return 1.0f / ((1.0f + expf(-a)) * (1.0f + expf(a)));
    if (link == hyperbolic) return level * coshf(a);
    if (link == soft) return fabsf(a) > level ? 1.0f : 0.0f;
    return (fabsf(atanf(a / level)) + fabsf(a) * level / (level * level + a * a)) * per_turn;
}

// The sum over a row of shapes times the query, on every lane of the warp.
__device__ __forceinline__ float read_row(const Work& w, int v, float level) {
    float sum = 0.0f;
    for (int k = threadIdx.x % 32; k < HEAD_K; k += 32) sum += shape(w.a[v * ld_k + k], level) * w.q[k];
    return warp_sum(sum);
}

#if FORWARD
#if STEP
#define linked_forward linked_step  // of a single update: nothing but CHUNK differs
#endif
// Item i is head i % heads and every `groups`-th token from i / heads on.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    linked_forward(const E* q, const E* u, const E* x, const float* stored, const float* reach, const float* shares,
                   E* y, float* space, float level, int heads, int groups, int reads, int count) {
    HECATE_ARENA(arena);
    CARVE_WORK(arena, w);
    for (int item = blockIdx.x; item < heads * groups; item += gridDim.x) {
        const long long g = item % heads;
        load_text(w.u, ld_v, V, u + g * count * HEAD_V, HEAD_V, count);
        load_text(w.x, ld_k, K, x + g * count * HEAD_K, HEAD_K, count);
        for (int t = item / heads; t < reads; t += groups) {
            const long long token = g * reads + t;
            load_row(w.q, K, q + token * HEAD_K, HEAD_K);
            for (int i = threadIdx.x; i < C; i += THREADS) w.reach[i] = i < count ? reach[token * count + i] : 0.0f;
            __syncthreads();
            form(w, stored + g * PARTS * matrix, shares + token * PARTS);
            const float scale = factor(measure(w, level));
            for (int v = threadIdx.x / 32; v < HEAD_V; v += warps) {
                const float answer = scale * read_row(w, v, level);
                if (threadIdx.x % 32 == 0) y[token * HEAD_V + v] = from_float<E>(answer);
            }
            __syncthreads();
        }
    }
}
#else

// The adjoint of the evidence in its place, and `by_column`: what the weights make of dy, but for `factor`.
__device__ __forceinline__ void pull_back(const Work& w, float size, float level) {
    const int lane = threadIdx.x % 32;
    for (int k = threadIdx.x / 32; k < HEAD_K; k += warps) {
        float sum = 0.0f;
        for (int v = lane; v < HEAD_V; v += 32) sum += shape(w.a[v * ld_k + k], level) * w.dy[v];
        sum = warp_sum(sum);
        if (lane == 0) w.by_column[k] = sum;
    }
    if (link != column_shares && !by_entry)
        for (int v = threadIdx.x / 32; v < HEAD_V; v += warps) {
            const float sum = read_row(w, v, level);
            if (lane == 0) w.by_row[v] = sum;
        }
    __syncthreads();
    float whole = 0.0f;
    if (link != column_shares && link != row_shares && !by_entry) {
        for (int v = threadIdx.x; v < HEAD_V; v += THREADS) whole += w.dy[v] * w.by_row[v];
        whole = block_sum(whole, w.scratch);
        if (!simplex && size <= level) whole = 0.0f;  // the norm met its floor
    }
    const float outer = powf(size, 2.0f - EXPONENT);
    over_evidence(w.a, [&](float& a, int v, int k) {
        const float direct = w.dy[v] * w.q[k];
        if (link == column_shares) a *= w.q[k] * (w.dy[v] - w.by_column[k] / level);
        if (link == row_shares) a *= w.dy[v] * (w.q[k] - w.by_row[v] / level);
        if (link == all_shares) a *= direct - whole / level;
        if (by_entry) a = slope(a, level) * direct;
        if (simplex || by_entry) return;
        const float along = (2.0f - EXPONENT) * whole * signed_power(a, EXPONENT - 1.0f);
        if (link == printed) a = outer * (direct + along);
        if (link == powered) a = a == 0.0f ? 0.0f : (EXPONENT - 1.0f) * power(fabsf(a), EXPONENT - 2.0f) * direct + along;
    });
    __syncthreads();
}

// Gradients that sum over tokens (du, dx, d_stored) come out per group of tokens.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    linked_backward(const E* q, const E* u, const E* x, const float* stored, const float* reach, const float* shares,
                    const E* d_y, E* dq, float* du, float* dx, float* d_stored, float* d_reach, float* d_shares,
                    float* space, float level, int heads, int groups, int reads, int count) {
    HECATE_ARENA(arena);
    CARVE_WORK(arena, w);
    for (int item = blockIdx.x; item < heads * groups; item += gridDim.x) {
        const long long g = item % heads, z = g * PARTS * matrix, part = item;  // parts: [groups, heads]
        float *const du_part = du + part * count * HEAD_V, *const dx_part = dx + part * count * HEAD_K;
        float* const d_stored_part = d_stored + part * PARTS * matrix;
        load_text(w.u, ld_v, V, u + g * count * HEAD_V, HEAD_V, count);
        load_text(w.x, ld_k, K, x + g * count * HEAD_K, HEAD_K, count);
        for (int t = item / heads; t < reads; t += groups) {
            const long long token = g * reads + t;
            const bool more = t >= groups;  // this thread has written the same places before
            load_row(w.q, K, q + token * HEAD_K, HEAD_K);
            load_row(w.dy, V, d_y + token * HEAD_V, HEAD_V);
            for (int i = threadIdx.x; i < C; i += THREADS) w.reach[i] = i < count ? reach[token * count + i] : 0.0f;
            __syncthreads();
            form(w, stored + z, shares + token * PARTS);
            const float size = measure(w, level);
            pull_back(w, size, level);
            const float scale = factor(size);
            for (int k = threadIdx.x; k < HEAD_K; k += THREADS)
                dq[token * HEAD_K + k] = from_float<E>(scale * w.by_column[k]);
            compute<float, C, V>([&](auto& sum) { sum.template add<K, rows, turned>(w.x, ld_k, w.a, ld_k); },
                                 [&](int i, int v, float value) {
                                     w.moved[i * ld_v + v] = value;
                                     if (i >= count || v >= HEAD_V) return;
                                     float& sum = du_part[(long long)i * HEAD_V + v];
                                     sum = (more ? sum : 0.0f) + w.reach[i] * value;
                                 });
            compute<float, C, K>([&](auto& sum) { sum.template add<V, rows, rows>(w.u, ld_v, w.a, ld_k); },
                                 [&](int i, int k, float value) {
                                     if (i >= count || k >= HEAD_K) return;
                                     float& sum = dx_part[(long long)i * HEAD_K + k];
                                     sum = (more ? sum : 0.0f) + w.reach[i] * value;
                                 });
            for (int j = 0; j < PARTS; ++j) {
                const float share = shares[token * PARTS + j];
                float along = 0.0f;
                over_evidence(w.a, [&](float& a, int v, int k) {
                    const long long at = j * matrix + (long long)v * HEAD_K + k;
                    along += a * stored[z + at];
                    d_stored_part[at] = (more ? d_stored_part[at] : 0.0f) + share * a;
                });
                along = block_sum(along, w.scratch);
                if (threadIdx.x == 0) d_shares[token * PARTS + j] = along;
            }
            __syncthreads();
            for (int i = threadIdx.x / beside; i < C; i += THREADS / beside) {
                float sum = 0.0f;
                for (int v = threadIdx.x % beside; v < V; v += beside) sum += w.u[i * ld_v + v] * w.moved[i * ld_v + v];
                if (beside > 1) sum = warp_sum(sum);
                if (i < count && threadIdx.x % beside == 0) d_reach[token * count + i] = sum;
            }
            __syncthreads();
        }
    }
}
#endif
