// Products of matrices in shared memory, sums in fp32 registers: one wording for tensor cores and for FMA.
//
//   compute<E, M, N>(terms, done)
//
// spreads an M x N result over the block. `terms(sums)` adds products to it,
//   sums.add<K, A, B>(a, lda, b, ldb)     sum over k < K of a(m, k) b(k, n)
// where A is `rows` (a stored m by k) or `turned` (k by m), B is `rows` (k by n) or `turned` (n by k);
// `done(m, n, value)` receives every element once. Which thread gets an element depends on M and N alone,
// so a later compute of the same size may go on with what the thread itself has written.
// M, N and K are multiples of 16. Needs THREADS; rows of bf16 matrices start at multiples of 16 bytes.
#pragma once

enum Stored { rows, turned };

// What to add to a row's length so that neighbouring rows fall into different banks.
template <class E>
constexpr int row_padding = 8;
template <>
constexpr int row_padding<float> = 1;

template <class E, int M, int N>
struct Sums;

// Tensor cores: a warp makes 16 rows and 16 or 32 columns at a time.
template <int M, int N>
struct Sums<bf16, M, N> {
    static constexpr int warps = THREADS / 32;
    static constexpr int columns = N % 32 == 0 && (M / 16) * (N / 32) >= warps ? 32 : 16;
    static constexpr int items = (M / 16) * (N / columns);
    static __device__ __forceinline__ int first() { return threadIdx.x / 32; }
    static constexpr int step = warps;

    float sums[columns / 8][4];
    int m0, n0;

    __device__ __forceinline__ explicit Sums(int item) : m0(item / (N / columns) * 16), n0(item % (N / columns) * columns) {
#pragma unroll
        for (int j = 0; j < columns / 8; ++j)
            for (int i = 0; i < 4; ++i) sums[j][i] = 0.0f;
    }

    template <int K, Stored A, Stored B>
    __device__ __forceinline__ void add(const bf16* a, int lda, const bf16* b, int ldb) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int k = 0; k < K; k += 16) {
            unsigned fa[4];
            if (A == rows) {
                ldmatrix_x4(fa, a + (m0 + lane % 16) * lda + k + lane / 16 * 8);
            } else {
                ldmatrix_x4_trans(fa, a + (k + lane % 8 + lane / 16 * 8) * lda + m0 + lane / 8 % 2 * 8);
            }
#pragma unroll
            for (int j = 0; j < columns / 8; j += 2) {
                unsigned fb[4];
                if (B == rows) {
                    ldmatrix_x4_trans(fb, b + (k + lane % 16) * ldb + n0 + j * 8 + lane / 16 * 8);
                } else {
                    ldmatrix_x4(fb, b + (n0 + j * 8 + lane % 8 + lane / 16 * 8) * ldb + k + lane / 8 % 2 * 8);
                }
                const unsigned low[2] = {fb[0], fb[1]}, high[2] = {fb[2], fb[3]};
                mma_bf16(sums[j], fa, low);
                mma_bf16(sums[j + 1], fa, high);
            }
        }
    }

    template <class Done>
    __device__ __forceinline__ void each(Done done) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int j = 0; j < columns / 8; ++j)
            for (int i = 0; i < 4; ++i) done(m0 + lane / 4 + i / 2 * 8, n0 + j * 8 + lane % 4 * 2 + i % 2, sums[j][i]);
    }
};

// FMA: a thread makes a patch of rows and columns, interleaved with its neighbours' to spread banks.
template <int M, int N>
struct Sums<float, M, N> {
    static constexpr int side = M * N >= 16 * THREADS ? 4 : 2;
    static constexpr int across = N / side, down = M / side;
    static constexpr int items = across * down;
    static __device__ __forceinline__ int first() { return threadIdx.x; }
    static constexpr int step = THREADS;

    float sums[side][side];
    int m0, n0;

    __device__ __forceinline__ explicit Sums(int item) : m0(item / across), n0(item % across) {
#pragma unroll
        for (int i = 0; i < side; ++i)
            for (int j = 0; j < side; ++j) sums[i][j] = 0.0f;
    }

    template <int K, Stored A, Stored B>
    __device__ __forceinline__ void add(const float* a, int lda, const float* b, int ldb) {
#pragma unroll 4
        for (int k = 0; k < K; ++k) {
            float fa[side], fb[side];
#pragma unroll
            for (int i = 0; i < side; ++i) {
                const int m = m0 + i * down, n = n0 + i * across;
                fa[i] = A == rows ? a[m * lda + k] : a[k * lda + m];
                fb[i] = B == rows ? b[k * ldb + n] : b[n * ldb + k];
            }
#pragma unroll
            for (int i = 0; i < side; ++i)
                for (int j = 0; j < side; ++j) sums[i][j] += fa[i] * fb[j];
        }
    }

    template <class Done>
    __device__ __forceinline__ void each(Done done) {
#pragma unroll
        for (int i = 0; i < side; ++i)
            for (int j = 0; j < side; ++j) done(m0 + i * down, n0 + j * across, sums[i][j]);
    }
};

template <class E, int M, int N, class Terms, class Done>
__device__ __forceinline__ void compute(Terms terms, Done done) {
    static_assert(M % 16 == 0 && N % 16 == 0, "sizes are multiples of 16");
    using Part = Sums<E, M, N>;
    for (int item = Part::first(); item < Part::items; item += Part::step) {
        Part part(item);
        terms(part);
        part.each(done);
    }
}
