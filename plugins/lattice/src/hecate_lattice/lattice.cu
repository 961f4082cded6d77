// The op `lattice`: unit slots that take only what they lack, token by token. One block per batch and head.
//
// Beside the constants of slots.cuh: VARIANT (0 decode, 1 encode, 2 similarity), RETAIN and MASKED (0 or 1: whether
// those gates are given), FORWARD. SLOTS is M, WIDTH is V. Equations: specs/rules/lattice.md. Slots are kept in fp32 as
// they follow from one another; the backward starts each chunk at stored slots and goes through it once more.
#include "hecate_device.cuh"
#include "hecate/slots.cuh"

constexpr bool decode = VARIANT == 0, encode = VARIANT == 1;
constexpr float floor_of_length = 1e-12f;

// One chunk of tokens as fp32.
struct Texts {
    float *q, *k, *v;                // C x SLOTS, C x SLOTS, C x wide
    float *write, *retain, *due;     // C each
};

#define CARVE_TEXTS(arena, c)                        \
    HECATE_CARVE(arena, float, c##_q, C * SLOTS);    \
    HECATE_CARVE(arena, float, c##_k, C * SLOTS);    \
    HECATE_CARVE(arena, float, c##_v, C * wide);     \
    HECATE_CARVE(arena, float, c##_gates, 3 * C);    \
    const Texts c{c##_q, c##_k, c##_v, c##_gates, c##_gates + C, c##_gates + 2 * C}

// What a token does to the slot that a lane keeps: n = stay s + go w, s' = n / |n|.
struct Turn {
    float code, along, stay, go, shrink;  // c, s.w, retain - write c s.w, write c, 1 / |n|
};

// Eq. 1 to 5 but for the sum over slots: direction w known, slots replaced. `hand` is the warp's row of 3 * each.
__device__ __forceinline__ Turn turn(Slots& s, const float (&w)[deep], float key, float write, float retain, float* hand) {
    Turn now;
    now.along = over_entries([&](int j, int p) { return s.at[j][p] * w[p]; });
    now.code = encode ? key - now.along : key;
    now.go = write * now.code;
    now.stay = retain - now.go * now.along;
    hand_round(hand, now.stay);
    hand_round(hand + each, now.go);
#pragma unroll at_once
    for (int j = 0; j < each; ++j)
#pragma unroll
        for (int p = 0; p < deep; ++p) s.at[j][p] = hand[j] * s.at[j][p] + hand[each + j] * w[p];
    const float square = over_entries([&](int j, int p) { return s.at[j][p] * s.at[j][p]; });
    now.shrink = 1.0f / fmaxf(sqrtf(square), floor_of_length);
    hand_round(hand + 2 * each, now.shrink);
#pragma unroll at_once
    for (int j = 0; j < each; ++j)
#pragma unroll
        for (int p = 0; p < deep; ++p) s.at[j][p] *= hand[2 * each + j];
    return now;
}

__device__ __forceinline__ void load_texts(const Texts& c, const E* q, const E* k, const E* v, long long q_token,
                                           long long k_token, long long v_token, const float* write,
                                           const float* retain, const float* due, int first, int length) {
    stage(c.q, SLOTS, q, q_token, SLOTS, first, length);
    stage(c.k, SLOTS, k, k_token, SLOTS, first, length);
    stage(c.v, wide, v, v_token, WIDTH, first, length);
    stage_gate(c.write, true, write, 0.0f, first, length);
    stage_gate(c.retain, RETAIN, retain, 1.0f, first, length);
    stage_gate(c.due, MASKED, due, 1.0f, first, length);
}

// A row of per-slot numbers; slots that are not there have 0.
__device__ __forceinline__ float of_slot(const float* row, int slot) { return slot < SLOTS ? row[slot] : 0.0f; }

// The sum of the slots, each times its number in `row`: this warp's share.
__device__ __forceinline__ void share_answer(float* shares, const Slots& s, const float* row) {
    share_entries(shares, [&](int j, int p) { return of_slot(row, slot_of(j)) * s.at[j][p]; });
}

#if FORWARD
#if STEP
#define lattice_forward lattice_step  // of a single token: one chunk, nothing stored on the way
#endif
// `starts` gets the slots at the beginning of every chunk but the first, as threads hold them; those that are far stand
// behind them.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    lattice_forward(const E* q, const E* k, const E* v, long long q_batch, long long q_head, long long q_token,
          long long k_batch, long long k_head, long long k_token, long long v_batch, long long v_head,
          long long v_token, const float* write, const float* retain, const float* due, const float* slots, E* y,
          float* end, float* starts, int heads, int length) {
    HECATE_ARENA(arena);
    CARVE_TEXTS(arena, c);
    HECATE_CARVE(arena, float, answers, 4 * warps * wide);  // two of each kind, in turn: reads, predictions
    HECATE_CARVE(arena, float, hands, warps * 3 * each);
    float* const hand = hands + warp_of() * 3 * each;

    const int batch = blockIdx.x / heads, head = blockIdx.x % heads, chunks = (length + C - 1) / C;
    const long long text = (long long)blockIdx.x * length, state = (long long)blockIdx.x * SLOTS * WIDTH;
    q += batch * q_batch + head * q_head;
    k += batch * k_batch + head * k_head;
    v += batch * v_batch + head * v_head;
    starts += (long long)blockIdx.x * (chunks - 1 + FAR) * held_floats;
    Slots s(starts + (long long)(chunks - 1) * held_floats);
    load_slots<1, SLOTS>(s, slots + state);

    for (int n = 0; n < chunks; ++n) {
        const int first = n * C, count = min(C, length - first);
        if (n) store_held(s, starts + (long long)(n - 1) * held_floats);
        __syncthreads();
        load_texts(c, q, k, v, q_token, k_token, v_token, write + text, retain + text, due + text, first, length);
        __syncthreads();
        if (decode) {
            share_answer(answers + 2 * warps * wide, s, c.k);
            __syncthreads();
        }
        for (int t = 0; t < count; ++t) {
            const float* const predictions = answers + (2 + t % 2) * warps * wide;
            if (c.due[t] != 0.0f) {
                float w[deep];
#pragma unroll
                for (int p = 0; p < deep; ++p)
                    w[p] = c.v[t * wide + lane_of() + 32 * p] - (decode ? shared_entry(predictions, p) : 0.0f);
                turn(s, w, of_slot(c.k + t * SLOTS, kept_slot()), c.write[t], c.retain[t], hand);
            }
            share_answer(answers + t % 2 * warps * wide, s, c.q + t * SLOTS);
            if (decode && t + 1 < count) share_answer(answers + (2 + (t + 1) % 2) * warps * wide, s, c.k + (t + 1) * SLOTS);
            __syncthreads();
            if (warp_of() == t % warps)
                for (int p = 0; p < deep; ++p)
                    if (lane_of() + 32 * p < WIDTH)
                        y[(text + first + t) * WIDTH + lane_of() + 32 * p] =
                            from_float<E>(shared_entry(answers + t % 2 * warps * wide, p));
        }
    }
    store_slots<1, SLOTS>(s, end + state);
}
#else

// Per token and thread: slots before it, w, s.w and 1 / |n| of the kept slot.
constexpr int kept_floats = held_floats + (deep + 2) * THREADS;

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    lattice_backward(const E* q, const E* k, const E* v, const E* d_y, long long q_batch, long long q_head, long long q_token,
          long long k_batch, long long k_head, long long k_token, long long v_batch, long long v_head,
          long long v_token, long long y_batch, long long y_head, long long y_token, const float* write,
          const float* retain, const float* due, const float* slots, const float* starts, const float* d_end, E* dq,
          E* dk, E* dv, float* d_write, float* d_retain, float* d_slots, float* kept, int heads, int length) {
    HECATE_ARENA(arena);
    CARVE_TEXTS(arena, c);
    HECATE_CARVE(arena, float, dy, C * wide);
    HECATE_CARVE(arena, float, answers, 2 * warps * wide);
    HECATE_CARVE(arena, float, numbers, 4 * warps);  // two of each kind, in turn: d_write, d_retain
    HECATE_CARVE(arena, float, hands, warps * 6 * each);
    float* const hand = hands + warp_of() * 6 * each;

    const int batch = blockIdx.x / heads, head = blockIdx.x % heads, chunks = (length + C - 1) / C;
    const long long text = (long long)blockIdx.x * length, state = (long long)blockIdx.x * SLOTS * WIDTH;
    q += batch * q_batch + head * q_head;
    k += batch * k_batch + head * k_head;
    v += batch * v_batch + head * v_head;
    d_y += batch * y_batch + head * y_head;
    kept += (long long)blockIdx.x * (C * kept_floats + FAR * 2 * held_floats);
    starts += (long long)blockIdx.x * (chunks - 1 + FAR) * held_floats;
    float* const far = kept + C * kept_floats;  // slots and their gradient
    Slots d(far + held_floats);
    load_slots<1, SLOTS>(d, d_end + state);

    for (int n = chunks - 1; n >= 0; --n) {
        const int first = n * C, count = min(C, length - first);
        __syncthreads();
        load_texts(c, q, k, v, q_token, k_token, v_token, write + text, retain + text, due + text, first, length);
        stage(dy, wide, d_y, y_token, WIDTH, first, length);
        __syncthreads();

        Slots s(far);
        if (n) {
            load_held(s, starts + (long long)(n - 1) * held_floats);
        } else {
            load_slots<1, SLOTS>(s, slots + state);
        }
        int flip = 0;
        for (int t = 0; t < count; ++t) {  // once more, keeping what the way back needs
            float* const at = kept + t * kept_floats + threadIdx.x;
            store_held(s, at - threadIdx.x);
            if (c.due[t] == 0.0f) continue;
            float* const shares = answers + (flip ^= 1) * warps * wide;  // resting tokens have no barrier
            if (decode) {
                share_answer(shares, s, c.k + t * SLOTS);
                __syncthreads();
            }
            float w[deep];
#pragma unroll
            for (int p = 0; p < deep; ++p) {
                w[p] = c.v[t * wide + lane_of() + 32 * p] - (decode ? shared_entry(shares, p) : 0.0f);
                at[held_floats + p * THREADS] = w[p];
            }
            const Turn now = turn(s, w, of_slot(c.k + t * SLOTS, kept_slot()), c.write[t], c.retain[t], hand);
            at[held_floats + deep * THREADS] = now.along;
            at[held_floats + (deep + 1) * THREADS] = now.shrink;
        }
        __syncthreads();

        for (int t = count - 1; t >= 0; --t) {  // s: slots after the token, later before it
            const float* const at = kept + t * kept_floats + threadIdx.x;
            const long long token = text + first + t;
            const float* const dyt = dy + t * wide + lane_of();
#pragma unroll at_once
            for (int j = 0; j < each; ++j)
#pragma unroll
                for (int p = 0; p < deep; ++p) d.at[j][p] += of_slot(c.q + t * SLOTS, slot_of(j)) * dyt[32 * p];
            const float read = over_entries([&](int j, int p) { return s.at[j][p] * dyt[32 * p]; });
            if (is_keeper()) dq[token * SLOTS + kept_slot()] = from_float<E>(read);
            if (c.due[t] == 0.0f) {
                if (is_keeper()) dk[token * SLOTS + kept_slot()] = from_float<E>(0.0f);
                for (int x = threadIdx.x; x < WIDTH; x += THREADS) dv[token * WIDTH + x] = from_float<E>(0.0f);
                if (threadIdx.x == 0) d_write[token] = 0.0f;
                if (threadIdx.x == 0 && RETAIN) d_retain[token] = 0.0f;
                continue;
            }
            // Through the retraction; where it met its floor, it only scales.
            const float along = at[held_floats + deep * THREADS], shrink = at[held_floats + (deep + 1) * THREADS];
            const float outward = over_entries([&](int j, int p) { return s.at[j][p] * d.at[j][p]; });
            hand_round(hand, shrink < 1.0f / floor_of_length ? outward : 0.0f);
            hand_round(hand + each, shrink);
#pragma unroll at_once
            for (int j = 0; j < each; ++j)
#pragma unroll
                for (int p = 0; p < deep; ++p) d.at[j][p] = (d.at[j][p] - s.at[j][p] * hand[j]) * hand[each + j];
            load_held(s, at - threadIdx.x);

            float w[deep];
#pragma unroll
            for (int p = 0; p < deep; ++p) w[p] = at[held_floats + p * THREADS];
            const float key = of_slot(c.k + t * SLOTS, kept_slot()), code = encode ? key - along : key;
            const float by_slot = over_entries([&](int j, int p) { return s.at[j][p] * d.at[j][p]; });
            const float by_direction = over_entries([&](int j, int p) { return w[p] * d.at[j][p]; });
            const float go = c.write[t] * code, d_go = by_direction - along * by_slot, d_code = c.write[t] * d_go;
            hand_round(hand + 2 * each, c.retain[t] - go * along);
            hand_round(hand + 3 * each, go);
            hand_round(hand + 4 * each, by_slot);
            hand_round(hand + 5 * each, d_code);
            const float *const stays = hand + 2 * each, *const goes = hand + 3 * each;
            const float *const by_slots = hand + 4 * each, *const d_codes = hand + 5 * each;
            flip ^= 1;
            float* const shares = answers + flip * warps * wide;
            float* const sums = numbers + flip * 2 * warps;
            share_entries(shares, [&](int j, int p) {
                return goes[j] * (d.at[j][p] - s.at[j][p] * by_slots[j]) - (encode ? d_codes[j] * s.at[j][p] : 0.0f);
            });
            share_number(sums, code * d_go);
            if (RETAIN) share_number(sums + warps, by_slot);
            __syncthreads();
            float dw[deep];
#pragma unroll
            for (int p = 0; p < deep; ++p) {
                dw[p] = shared_entry(shares, p);
                if (warp_of() == t % warps && lane_of() + 32 * p < WIDTH)
                    dv[token * WIDTH + lane_of() + 32 * p] = from_float<E>(dw[p]);
            }
            if (threadIdx.x == 0) d_write[token] = shared_number(sums);
            if (threadIdx.x == 0 && RETAIN) d_retain[token] = shared_number(sums + warps);
            float d_key = d_code;
            if (decode) d_key -= over_entries([&](int j, int p) { return s.at[j][p] * dw[p]; });
            if (is_keeper()) dk[token * SLOTS + kept_slot()] = from_float<E>(d_key);
#pragma unroll at_once
            for (int j = 0; j < each; ++j)
#pragma unroll
                for (int p = 0; p < deep; ++p) {
                    float sum = stays[j] * d.at[j][p] - goes[j] * by_slots[j] * w[p];
                    if (encode) sum -= d_codes[j] * w[p];
                    if (decode) sum -= of_slot(c.k + t * SLOTS, slot_of(j)) * dw[p];
                    d.at[j][p] = sum;
                }
        }
    }
    store_slots<1, SLOTS>(d, d_slots + state);
}
#endif
