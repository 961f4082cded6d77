// What a kernel compiled for the host asks of the runner. The runner itself is never instrumented:
// its own bookkeeping would drown a sanitizer's report about the kernel.
#pragma once
#include <stddef.h>

namespace hecate_host {

struct Site {
    const char* file;
    int line;
};

struct Index3 {
    unsigned x, y, z;
};

// The CUDA thread that is running now; kernels read their indices through it.
struct Thread {
    Index3 thread, block, block_dim, grid_dim;
    unsigned rank;  // linear index inside the block
};

extern Thread* current;

enum class Meeting : int { sync, shuffle, vote, mma, ldmatrix };

// Block-wide barrier; a divergent one ends the launch with both lines. How many threads came with a vote.
unsigned barrier(Site site, bool vote = false);

// Lets other threads go on first.
void pause(Site site);

// __threadfence, or __threadfence_block; also a place where others go on.
void fence(Site site, bool device);

// An atomic has found `seen` at an address and perhaps changed it.
void atomic_done(Site site, const volatile void* address, unsigned long long seen, bool wrote);

// Meets exactly the lanes of `mask`, each bringing `bytes` (at most 32) of payload.
void meet(Site site, Meeting kind, unsigned mask, const void* payload, unsigned bytes);

// After `meet`: what `lane` brought. A lane outside the mask is an error.
void take(Site site, unsigned lane, void* out, unsigned bytes);

// After `meet` of kind mma: the four sums of this lane; `half` chooses fp16 over bf16 factors.
void multiply(bool half, float* sums);

// Shared arrays: one allocation per block and key, poisoned with 0xFF. `name` is for messages.
void* shared_array(const void* key, size_t bytes, const char* name, Site site);

// The piece of dynamic shared memory that begins at byte `*arena`, which goes on behind it. As on a GPU, equal places
// are the same memory, whatever their names; places that overlap otherwise are refused, for each has red zones.
void* carve(unsigned* arena, size_t bytes, const char* name, Site site);

// cp.async: remembered per thread and performed by the waiting thread itself.
struct Copy {
    void* to;
    const void* from;
    int bytes;  // taken from `from`; the rest of the 16 is zeroed
    Site site;
    unsigned char seen[16];  // what `from` held when the copy was issued
};
void demand_copy(const Copy& copy);
void copy_later(const Copy& copy);
void copy_commit();
bool copy_next(unsigned groups_in_flight, Copy* due);  // false when nothing more is due

// Whether so many bytes lie inside one shared array of this block.
bool in_shared(const void* start, size_t bytes);

[[noreturn]] void fail(Site site, const char* format, ...);

// Kernel arguments as cuLaunchKernel takes them: an array of pointers to the values.
using Entry = void (*)(void** arguments);

struct NamedEntry {
    const char* name;
    Entry entry;
};

template <unsigned... I>
struct Indices {};
template <unsigned N, unsigned... I>
struct MakeIndices : MakeIndices<N - 1, N - 1, I...> {};
template <unsigned... I>
struct MakeIndices<0, I...> {
    using type = Indices<I...>;
};
template <class T>
struct Plain {
    using type = T;
};
template <class T>
struct Plain<const T> {
    using type = T;
};

template <class... A, unsigned... I>
void unpack(void (*kernel)(A...), void** arguments, Indices<I...>) {
    kernel(*static_cast<typename Plain<A>::type*>(arguments[I])...);
}

template <class... A>
void unpack(void (*kernel)(A...), void** arguments) {
    unpack(kernel, arguments, typename MakeIndices<sizeof...(A)>::type());
}

// What racecheck tells apart. The identity of a thread costs ThreadSanitizer most of a millisecond, so it is first a
// thread of whichever block, then a block. Where fences order threads of one block with threads of another, it is both.
enum class Told : int { threads, blocks, both };

struct Launch {
    Entry entry;
    void** arguments;
    Index3 grid, block;
    size_t dynamic_bytes;
    int schedule;   // index into the names of `schedule_names`
    unsigned seed;
    Told told;
};

constexpr int schedule_count = 6;
extern const char* const schedule_names[schedule_count];

// Whether this is racecheck, which runs a launch again for everything that has to be told apart.
bool is_racecheck();

// Whether a fence of the last launch was one for other blocks too.
bool fenced_blocks();

// Runs one launch; returns null, or one line `file:line: message` (valid until the next launch).
const char* run(const Launch& launch);

}  // namespace hecate_host
