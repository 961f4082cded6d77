// The op `trellis`: one store of slots, written towards a code and read by slots or by entries, token by token. One
// block per batch and head; the rule calls it twice, for keys and for values.
//
// Beside the constants of slots.cuh: PHI (slot_maps.cuh), ENTRIES (1: reads are S^T q, 0: S q), MASKED (whether
// there is a mask), FORWARD, STEP. SLOTS is M. Equations: specs/rules/trellis.md. The store is kept in fp32; the
// backward starts each chunk at a stored one and goes through it once more.
#include "hecate_device.cuh"
#include "hecate/slots.cuh"

#include "slot_maps.cuh"

constexpr int asks = ENTRIES ? SLOTS : wide, asked = ENTRIES ? SLOTS : WIDTH;        // of a query: staged, given
constexpr int answers = ENTRIES ? wide : SLOTS, answered = ENTRIES ? WIDTH : SLOTS;  // of a read
constexpr int per_lane = whole ? (SLOTS + 31) / 32 : 1;  // slots of a lane while a map is taken

// One chunk of tokens as fp32.
struct Texts {
    float *q, *w, *code;          // C x asks, C x wide, C x SLOTS
    float *retain, *write, *due;  // C each
};

#define CARVE_TEXTS(arena, c)                        \
    HECATE_CARVE(arena, float, c##_q, C * asks);     \
    HECATE_CARVE(arena, float, c##_w, C * wide);     \
    HECATE_CARVE(arena, float, c##_code, C * SLOTS); \
    HECATE_CARVE(arena, float, c##_gates, 3 * C);    \
    const Texts c{c##_q, c##_w, c##_code, c##_gates, c##_gates + C, c##_gates + 2 * C}

__device__ __forceinline__ void load_texts(const Texts& c, const E* q, const E* w, const E* code, long long q_token,
                                           long long w_token, long long code_token, const float* retain,
                                           const float* write, const float* due, int first, int length) {
    stage(c.q, asks, q, q_token, asked, first, length);
    stage(c.w, wide, w, w_token, WIDTH, first, length);
    stage(c.code, SLOTS, code, code_token, SLOTS, first, length);
    stage_gate(c.retain, true, retain, 1.0f, first, length);
    stage_gate(c.write, true, write, 0.0f, first, length);
    stage_gate(c.due, MASKED, due, 1.0f, first, length);
}

__device__ __forceinline__ float of_slot(const float* row, int slot) { return slot < SLOTS ? row[slot] : 0.0f; }

// Numbers of the kept slot, for every lane that takes part in a map. Whole maps: every warp gets all slots, by way
// of `all` (2 * SLOTS floats) and a barrier.
__device__ __forceinline__ int slot_in_map(int i) { return whole ? lane_of() + 32 * i : kept_slot(); }

__device__ __forceinline__ void for_map(float (&x)[per_lane], float kept, const float* all) {
#pragma unroll
    for (int i = 0; i < per_lane; ++i) x[i] = whole ? of_slot(all, slot_in_map(i)) : kept;
}

// Back to the warp that owns the slots: hand[j] for the j-th.
__device__ __forceinline__ void hand_from_map(float* hand, const float (&x)[per_lane]) {
    if (!whole) {
        hand_round(hand, x[0]);
        return;
    }
    __syncwarp();
    for (int j = lane_of(); j < each; j += 32)  // slots that fill the last warps up: no lane has them in its map
        if (warp_of() * each + j >= 32 * per_lane) hand[j] = 0.0f;
#pragma unroll
    for (int i = 0; i < per_lane; ++i) {
        const int j = slot_in_map(i) - warp_of() * each;
        if (j >= 0 && j < each) hand[j] = slot_in_map(i) < SLOTS ? x[i] : 0.0f;
    }
    __syncwarp();
}

// Eq. 1: u of all slots of the warp into `hand`; `all` is used by whole maps alone. Returns z of the kept slot.
__device__ __forceinline__ float error_at(const Slots& s, const float* w, const float* code, float* hand, float* all) {
    const float z = over_entries([&](int j, int p) { return s.at[j][p] * w[lane_of() + 32 * p]; });
    if (whole) {
        if (is_keeper()) all[kept_slot()] = z;
        __syncthreads();
    }
    float zs[per_lane], codes[per_lane], there[per_lane], e[per_lane], u[per_lane];
    for_map(zs, z, all);
#pragma unroll
    for (int i = 0; i < per_lane; ++i) {
        codes[i] = of_slot(code, slot_in_map(i));
        there[i] = slot_in_map(i) < SLOTS;
    }
    errors<float, per_lane>(zs, codes, there, e, u);
    hand_from_map(hand, u);
    return z;
}

__device__ __forceinline__ void write_slots(Slots& s, const float* w, const float* u, float retain, float write) {
#pragma unroll at_once
    for (int j = 0; j < each; ++j)
#pragma unroll
        for (int p = 0; p < deep; ++p)
            s.at[j][p] = retain * s.at[j][p] - write * u[j] * w[lane_of() + 32 * p];
}

#if FORWARD
#if STEP
#define trellis_forward trellis_step  // of a single token: one chunk, nothing stored on the way
#endif
// `starts` gets the store at the beginning of every chunk but the first, as threads hold it; one that is far stands
// behind them.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    trellis_forward(const E* q, const E* w, const E* code, long long q_batch, long long q_head, long long q_token,
                    long long w_batch, long long w_head, long long w_token, long long code_batch, long long code_head,
                    long long code_token, const float* retain, const float* write, const float* due,
                    const float* store, E* y, float* end, float* starts, int heads, int length) {
    HECATE_ARENA(arena);
    CARVE_TEXTS(arena, c);
    HECATE_CARVE(arena, float, shares, ENTRIES * 2 * warps * wide + 1);
    HECATE_CARVE(arena, float, alls, whole * 2 * SLOTS + 1);
    HECATE_CARVE(arena, float, hands, warps * each);
    float* const hand = hands + warp_of() * each;

    const int batch = blockIdx.x / heads, head = blockIdx.x % heads, chunks = (length + C - 1) / C;
    const long long text = (long long)blockIdx.x * length, state = (long long)blockIdx.x * SLOTS * WIDTH;
    q += batch * q_batch + head * q_head;
    w += batch * w_batch + head * w_head;
    code += batch * code_batch + head * code_head;
    starts += (long long)blockIdx.x * (chunks - 1 + FAR) * held_floats;
    Slots s(starts + (long long)(chunks - 1) * held_floats);
    load_slots<WIDTH, 1>(s, store + state);

    for (int n = 0; n < chunks; ++n) {
        const int first = n * C, count = min(C, length - first);
        if (n) store_held(s, starts + (long long)(n - 1) * held_floats);
        __syncthreads();
        load_texts(c, q, w, code, q_token, w_token, code_token, retain + text, write + text, due + text, first, length);
        __syncthreads();
        int flip = 0;
        for (int t = 0; t < count; ++t) {
            const float *const wt = c.w + t * wide, *const qt = c.q + t * asks;
            if (c.due[t] != 0.0f) {
                flip ^= 1;  // resting tokens have no barrier here
                error_at(s, wt, c.code + t * SLOTS, hand, alls + flip * SLOTS);
                write_slots(s, wt, hand, c.retain[t], c.write[t]);
            }
            E* const to = y + (text + first + t) * answered;
            if (!ENTRIES) {
                const float read = over_entries([&](int j, int p) { return s.at[j][p] * qt[lane_of() + 32 * p]; });
                if (is_keeper()) to[kept_slot()] = from_float<E>(read);
                continue;
            }
            float* const part = shares + t % 2 * warps * wide;
            share_entries(part, [&](int j, int p) { return of_slot(qt, slot_of(j)) * s.at[j][p]; });
            __syncthreads();
            if (warp_of() == t % warps)
                for (int p = 0; p < deep; ++p)
                    if (lane_of() + 32 * p < WIDTH) to[lane_of() + 32 * p] = from_float<E>(shared_entry(part, p));
        }
    }
    store_slots<WIDTH, 1>(s, end + state);
}
#else

// Per token and thread: the store before it, z and u of the kept slot.
constexpr int kept_floats = held_floats + 2 * THREADS;

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    trellis_backward(const E* q, const E* w, const E* code, const E* d_y, long long q_batch, long long q_head,
                     long long q_token, long long w_batch, long long w_head, long long w_token, long long code_batch,
                     long long code_head, long long code_token, long long y_batch, long long y_head,
                     long long y_token, const float* retain, const float* write, const float* due, const float* store,
                     const float* starts, const float* d_end, E* dq, E* dw, E* d_code, float* d_retain,
                     float* d_write, float* d_store, float* kept, int heads, int length) {
    HECATE_ARENA(arena);
    CARVE_TEXTS(arena, c);
    HECATE_CARVE(arena, float, dy, C * answers);
    HECATE_CARVE(arena, float, shares, 2 * (2 - ENTRIES) * warps * wide);  // two of each kind, in turn: dw, dq
    HECATE_CARVE(arena, float, numbers, 4 * warps);                        // d_retain, d_write
    HECATE_CARVE(arena, float, alls, whole * 4 * SLOTS + 1);
    HECATE_CARVE(arena, float, hands, warps * 2 * each);
    float *const hand = hands + warp_of() * 2 * each, *const d_hand = hand + each;

    const int batch = blockIdx.x / heads, head = blockIdx.x % heads, chunks = (length + C - 1) / C;
    const long long text = (long long)blockIdx.x * length, state = (long long)blockIdx.x * SLOTS * WIDTH;
    q += batch * q_batch + head * q_head;
    w += batch * w_batch + head * w_head;
    code += batch * code_batch + head * code_head;
    d_y += batch * y_batch + head * y_head;
    kept += (long long)blockIdx.x * (C * kept_floats + FAR * 2 * held_floats);
    starts += (long long)blockIdx.x * (chunks - 1 + FAR) * held_floats;
    float* const far = kept + C * kept_floats;  // the store and its gradient
    Slots d(far + held_floats);
    load_slots<WIDTH, 1>(d, d_end + state);

    for (int n = chunks - 1; n >= 0; --n) {
        const int first = n * C, count = min(C, length - first);
        __syncthreads();
        load_texts(c, q, w, code, q_token, w_token, code_token, retain + text, write + text, due + text, first, length);
        stage(dy, answers, d_y, y_token, answered, first, length);
        __syncthreads();

        Slots s(far);
        if (n) {
            load_held(s, starts + (long long)(n - 1) * held_floats);
        } else {
            load_slots<WIDTH, 1>(s, store + state);
        }
        int flip = 0;
        for (int t = 0; t < count; ++t) {  // once more, keeping what the way back needs
            float* const at = kept + t * kept_floats + threadIdx.x;
            store_held(s, at - threadIdx.x);
            if (c.due[t] == 0.0f) continue;
            const float* const wt = c.w + t * wide;
            flip ^= 1;
            at[held_floats] = error_at(s, wt, c.code + t * SLOTS, hand, alls + flip * 2 * SLOTS);
            at[held_floats + THREADS] = hand[lane_of() / keepers];
            write_slots(s, wt, hand, c.retain[t], c.write[t]);
        }
        __syncthreads();

        for (int t = count - 1; t >= 0; --t) {  // s: the store after the token, later before it
            const float* const at = kept + t * kept_floats + threadIdx.x;
            const float *const wt = c.w + t * wide, *const qt = c.q + t * asks, *const dyt = dy + t * answers;
            const long long token = text + first + t;
            flip ^= 1;
            float *const part = shares + flip * warps * wide, *const by_reads = part + 2 * warps * wide;
            float *const all = alls + flip * 2 * SLOTS, *const sums = numbers + flip * 2 * warps;
            const bool rests = c.due[t] == 0.0f;
            if (ENTRIES) {
                const float read = over_entries([&](int j, int p) { return s.at[j][p] * dyt[lane_of() + 32 * p]; });
                if (is_keeper()) dq[token * SLOTS + kept_slot()] = from_float<E>(read);
            } else {
                share_entries(by_reads, [&](int j, int p) { return of_slot(dyt, slot_of(j)) * s.at[j][p]; });
            }
#pragma unroll at_once
            for (int j = 0; j < each; ++j)
#pragma unroll
                for (int p = 0; p < deep; ++p)
                    d.at[j][p] += ENTRIES ? of_slot(qt, slot_of(j)) * dyt[lane_of() + 32 * p]
                                          : of_slot(dyt, slot_of(j)) * qt[lane_of() + 32 * p];
            if (!rests) {
                load_held(s, at - threadIdx.x);
                const float z = at[held_floats], u = at[held_floats + THREADS];
                const float by_u = over_entries([&](int j, int p) { return d.at[j][p] * wt[lane_of() + 32 * p]; });
                const float by_keep = over_entries([&](int j, int p) { return d.at[j][p] * s.at[j][p]; });
                const float du = -c.write[t] * by_u;
                share_number(sums, by_keep);
                share_number(sums + warps, -u * by_u);
                if (whole) {
                    if (is_keeper()) all[kept_slot()] = z;
                    if (is_keeper()) all[SLOTS + kept_slot()] = du;
                    __syncthreads();
                }
                // The Hessian of the loss is symmetric: its product with du is a derivative along du.
                float zs[per_lane], dus[per_lane], codes[per_lane], there[per_lane], back[per_lane];
                for_map(zs, z, all);
                for_map(dus, du, all + SLOTS);
                Dual moved[per_lane], e[per_lane], us[per_lane];
#pragma unroll
                for (int i = 0; i < per_lane; ++i) {
                    moved[i] = Dual(zs[i], dus[i]);
                    codes[i] = of_slot(c.code + t * SLOTS, slot_in_map(i));
                    there[i] = slot_in_map(i) < SLOTS;
                }
                errors<Dual, per_lane>(moved, codes, there, e, us);
#pragma unroll
                for (int i = 0; i < per_lane; ++i) {
                    back[i] = us[i].d;
                    const bool mine = whole ? warp_of() == t % warps : is_keeper();
                    if (mine && slot_in_map(i) < SLOTS) d_code[token * SLOTS + slot_in_map(i)] = from_float<E>(-e[i].d);
                }
                hand_from_map(d_hand, back);
                hand_round(hand, u);
                share_entries(part, [&](int j, int p) { return d_hand[j] * s.at[j][p] - c.write[t] * hand[j] * d.at[j][p]; });
            }
            __syncthreads();
            if (warp_of() == t % warps)
                for (int p = 0; p < deep; ++p) {
                    const int x = lane_of() + 32 * p;
                    if (x >= WIDTH) continue;
                    dw[token * WIDTH + x] = from_float<E>(rests ? 0.0f : shared_entry(part, p));
                    if (!ENTRIES) dq[token * WIDTH + x] = from_float<E>(shared_entry(by_reads, p));
                }
            if (threadIdx.x == 0) {
                d_retain[token] = rests ? 0.0f : shared_number(sums);
                d_write[token] = rests ? 0.0f : shared_number(sums + warps);
            }
            if (rests) {
                if (is_keeper()) d_code[token * SLOTS + kept_slot()] = from_float<E>(0.0f);
                continue;
            }
#pragma unroll at_once
            for (int j = 0; j < each; ++j)
#pragma unroll
                for (int p = 0; p < deep; ++p)
                    d.at[j][p] = c.retain[t] * d.at[j][p] + d_hand[j] * wt[lane_of() + 32 * p];
        }
    }
    store_slots<WIDTH, 1>(d, d_store + state);
}
#endif
