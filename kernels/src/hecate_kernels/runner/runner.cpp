// Runs one kernel launch on the CPU: a fiber per CUDA thread of a block, blocks one after another.
//
// Barriers and warp operations are the only places where a fiber gives up the processor, so a
// schedule is an order in which runnable threads are resumed. Under ThreadSanitizer every CUDA
// thread is a fiber of its own and switches carry no ordering; only barriers and warp operations
// do, so happens-before is exactly CUDA's.
#include "runner.hpp"
#include "tensor_core.hpp"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <vector>

#if !defined(__x86_64__) || !defined(__linux__)
#error "the host backend needs x86-64 Linux; use the reference backend here"
#endif

extern "C" {
void hecate_switch(void** save, void* load);
void* __tsan_create_fiber(unsigned) __attribute__((weak));
void __tsan_destroy_fiber(void*) __attribute__((weak));
void* __tsan_get_current_fiber() __attribute__((weak));
void __tsan_switch_to_fiber(void*, unsigned) __attribute__((weak));
void __tsan_set_fiber_name(void*, const char*) __attribute__((weak));
void __tsan_acquire(void*) __attribute__((weak));
void __tsan_release(void*) __attribute__((weak));
void AnnotateIgnoreReadsBegin(const char*, int) __attribute__((weak));
void AnnotateIgnoreReadsEnd(const char*, int) __attribute__((weak));
void __asan_poison_memory_region(void const volatile*, size_t) __attribute__((weak));
}

// Saves the callee-saved registers on the running stack and resumes the other one.
asm(R"(
.text
.globl hecate_switch
.hidden hecate_switch
.type hecate_switch,@function
hecate_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size hecate_switch,.-hecate_switch
.section .note.GNU-stack,"",@progbits
.text
)");

namespace hecate_host {

Thread* current = nullptr;
const char* const schedule_names[schedule_count] = {"ascending", "descending", "random-1",
                                                    "random-2",  "greedy-up",  "greedy-random"};

namespace {

constexpr size_t most_identities = 2048;  // alive at once under TSan, which slows down with them and ends at 8,000
constexpr unsigned lanes = 32;
constexpr unsigned payload_words = 8;
constexpr size_t stack_bytes = 256 * 1024;
constexpr size_t idle_stacks = 64;  // kept between launches; a process may load hundreds of kernels
constexpr size_t guard_bytes = 64;
constexpr unsigned char guard_fill = 0xA5;

enum class Standing { ready, at_barrier, in_meeting, done };

// One warp operation in progress; kept until every lane of it has come back for more.
struct Rendezvous {
    bool open = false, complete = false;
    Meeting kind = Meeting::sync;
    Site site{};
    unsigned mask = 0, arrived = 0, held = 0, bytes = 0;
    unsigned payload[lanes][payload_words];
    float sums[lanes][4];
    bool multiplied = false;
};

struct Fiber {
    Thread thread{};
    void* stack_pointer = nullptr;
    void* tsan = nullptr;
    Standing standing = Standing::ready;
    Site site{};
    Rendezvous* meeting = nullptr;
    std::vector<Copy> copies;
    std::vector<size_t> groups;  // committed copies, as ends in `copies`
    size_t copied = 0;
};

struct Shared {
    const void* key;
    unsigned char* bytes;
    size_t size;
    const char* name;
    Site site;
    bool dynamic;
};

struct Warp {
    std::vector<Rendezvous*> meetings;
};

struct World {
    Launch launch{};
    std::vector<Fiber> fibers;
    std::vector<unsigned char*> stacks, old_stacks;
    std::vector<Warp> warps;
    std::vector<Shared> shared;
    std::vector<void*> retired;  // TSan identities outlive their block, or races between blocks hide
    std::vector<unsigned> order, warp_order;
    size_t carved = 0;
    unsigned waiting = 0, done = 0;
    Site barrier_site{};
    unsigned barrier_first = 0;
    void* scheduler = nullptr;
    void* scheduler_tsan = nullptr;
    unsigned long long random = 0;
    bool failed = false;
    char message[1024];
    unsigned passed = 0, blocks = 0;  // barriers of this block; blocks before it
    char start_token = 0, end_token = 0;
    std::vector<char> barrier_tokens;          // two per block: blocks learn nothing from each other
    std::vector<Rendezvous*> old_meetings;
} world;

// Allocating and freeing count as writes for ThreadSanitizer unless accesses are being ignored.
struct Unwatched {
    Unwatched() {
        if (AnnotateIgnoreReadsBegin) AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    }
    ~Unwatched() {
        if (AnnotateIgnoreReadsEnd) AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
    }
};

const char* base(const char* file) {
    const char* slash = strrchr(file, '/');
    return slash ? slash + 1 : file;
}

unsigned next_random(unsigned below) {
    world.random = world.random * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<unsigned>((world.random >> 33) % below);
}

void shuffle(std::vector<unsigned>& order) {
    for (size_t i = order.size(); i > 1; --i) {
        const unsigned j = next_random(static_cast<unsigned>(i));
        const unsigned kept = order[i - 1];
        order[i - 1] = order[j];
        order[j] = kept;
    }
}

Fiber& self() { return world.fibers[current->rank]; }

void to_scheduler() {
    Fiber& fiber = self();
    if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(world.scheduler_tsan, 1);
    hecate_switch(&fiber.stack_pointer, world.scheduler);
}

void acquire(void* token) {
    if (__tsan_acquire) __tsan_acquire(token);
}

void release(void* token) {
    if (__tsan_release) __tsan_release(token);
}

void leave_meeting(Fiber& fiber) {
    if (!fiber.meeting) return;
    Rendezvous& old = *fiber.meeting;
    old.held &= ~(1u << (fiber.thread.rank % lanes));
    if (!old.held) old.open = false;
    fiber.meeting = nullptr;
}

void fiber_body() {
    acquire(&world.start_token);
    world.launch.entry(world.launch.arguments);
    Fiber& fiber = self();
    leave_meeting(fiber);
    if (fiber.copied < fiber.copies.size())
        fail(fiber.copies[fiber.copied].site, "cp.async is never waited for (thread %u ends first)", fiber.thread.rank);
    release(&world.end_token);
    fiber.standing = Standing::done;
    ++world.done;
    to_scheduler();
    abort();
}

void resume(unsigned rank) {
    Fiber& fiber = world.fibers[rank];
    current = &fiber.thread;
    if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(fiber.tsan, 1);
    hecate_switch(&world.scheduler, fiber.stack_pointer);
}

bool resume_if_ready(unsigned rank) {
    if (world.failed || world.fibers[rank].standing != Standing::ready) return false;
    resume(rank);
    return true;
}

// One sweep in the launch's order; a greedy schedule lets a warp run to its next barrier first.
bool sweep() {
    bool moved = false;
    const unsigned count = static_cast<unsigned>(world.fibers.size());
    if (world.launch.schedule >= 4) {
        if (world.launch.schedule == 5) shuffle(world.warp_order);
        for (unsigned warp : world.warp_order)
            for (bool again = true; again && !world.failed;) {
                again = false;
                for (unsigned lane = 0; lane < lanes && warp * lanes + lane < count; ++lane)
                    again |= resume_if_ready(warp * lanes + lane);
                moved |= again;
            }
        return moved;
    }
    if (world.launch.schedule >= 2) shuffle(world.order);
    for (unsigned rank : world.order) moved |= resume_if_ready(rank);
    return moved;
}

void report_stuck() {
    const Fiber* waiting = nullptr;
    const Fiber* gone = nullptr;
    for (const Fiber& fiber : world.fibers) {
        if (fiber.standing == Standing::done) {
            if (!gone) gone = &fiber;
        } else if (!waiting) {
            waiting = &fiber;
        }
    }
    const char* what = waiting->standing == Standing::at_barrier ? "__syncthreads" : "a warp operation";
    for (const Fiber& fiber : world.fibers)
        if (fiber.standing != Standing::done && fiber.standing != waiting->standing) {
            snprintf(world.message, sizeof world.message,
                     "%s:%d: divergent: thread %u waits at %s while thread %u waits at line %d", waiting->site.file,
                     waiting->site.line, waiting->thread.rank, what, fiber.thread.rank, fiber.site.line);
            world.failed = true;
            return;
        }
    if (gone)
        snprintf(world.message, sizeof world.message, "%s:%d: divergent: thread %u waits at %s but thread %u has left",
                 waiting->site.file, waiting->site.line, waiting->thread.rank, what, gone->thread.rank);
    else
        snprintf(world.message, sizeof world.message, "%s:%d: no thread can go on; thread %u waits at %s",
                 waiting->site.file, waiting->site.line, waiting->thread.rank, what);
    world.failed = true;
}

void prepare_block(Index3 block) {
    world.waiting = world.done = world.passed = 0;
    world.carved = 0;
    const Index3 dim = world.launch.block;
    for (unsigned rank = 0; rank < world.fibers.size(); ++rank) {
        Fiber& fiber = world.fibers[rank];
        fiber.thread.thread = {rank % dim.x, rank / dim.x % dim.y, rank / (dim.x * dim.y)};
        fiber.thread.block = block;
        fiber.thread.block_dim = dim;
        fiber.thread.grid_dim = world.launch.grid;
        fiber.thread.rank = rank;
        fiber.standing = Standing::ready;
        fiber.meeting = nullptr;
        fiber.copies.clear();
        fiber.groups.clear();
        fiber.copied = 0;
        // Stack tops are staggered (they would share cache sets) and 8 modulo 16 at entry.
        unsigned char* top = world.stacks[rank] + stack_bytes - 64 - (rank % 32) * 192;
        void** frame = reinterpret_cast<void**>(top - 8);
        *--frame = reinterpret_cast<void*>(fiber_body);
        for (int i = 0; i < 6; ++i) *--frame = nullptr;
        fiber.stack_pointer = frame;
        if (__tsan_create_fiber) {
            fiber.tsan = __tsan_create_fiber(0);
            world.retired.push_back(fiber.tsan);
            char name[64];
            snprintf(name, sizeof name, "block %u,%u,%u thread %u", block.x, block.y, block.z, rank);
            __tsan_set_fiber_name(fiber.tsan, name);
        }
    }
    for (Warp& warp : world.warps) {
        world.old_meetings.insert(world.old_meetings.end(), warp.meetings.begin(), warp.meetings.end());
        warp.meetings.clear();
    }
    release(&world.start_token);
}

void close_shared() {
    Unwatched unwatched;
    for (Shared& shared : world.shared) {
        const bool guarded = !__tsan_create_fiber && !__asan_poison_memory_region;
        for (size_t i = 0; guarded && !world.failed && i < guard_bytes; ++i)
            if (shared.bytes[shared.size + i] != guard_fill) {
                snprintf(world.message, sizeof world.message,
                         "%s:%d: shared array \"%s\" of %zu bytes was written past its end (byte %zu)",
                         shared.site.file, shared.site.line, shared.name, shared.size, shared.size + i);
                world.failed = true;
            }
        free(shared.bytes);
    }
    world.shared.clear();
}

// Under ThreadSanitizer every block gets stacks of its own: a local variable is nobody else's memory.
void ensure_stacks(size_t count) {
    if (__tsan_create_fiber) {
        world.old_stacks.insert(world.old_stacks.end(), world.stacks.begin(), world.stacks.end());
        world.stacks.clear();
    }
    while (world.stacks.size() < count) {
        void* stack = mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (stack == MAP_FAILED) {
            world.failed = true;
            snprintf(world.message, sizeof world.message, "host: no memory for %zu thread stacks", count);
            return;
        }
        mprotect(stack, 4096, PROT_NONE);  // running over the end is a fault, not a neighbour's data
        world.stacks.push_back(static_cast<unsigned char*>(stack));
    }
}

void run_block(Index3 block) {
    ensure_stacks(world.fibers.size());
    if (world.failed) return;
    prepare_block(block);
    while (!world.failed && world.done < world.fibers.size())
        if (!sweep() && !world.failed) report_stuck();
    close_shared();
}

void* allocate(const void* key, size_t bytes, const char* name, Site site, bool dynamic) {
    for (const Shared& shared : world.shared)
        if (shared.key == key) return shared.bytes;
    Unwatched unwatched;
    const bool guarded = !__tsan_create_fiber && !__asan_poison_memory_region;
    const size_t whole = bytes + (guarded ? guard_bytes : 0);
    void* memory = nullptr;
    if (posix_memalign(&memory, 128, whole ? whole : 1)) fail(site, "no memory for shared array \"%s\"", name);
    unsigned char* start = static_cast<unsigned char*>(memory);
    if (world.shared.size() == 256) fail(site, "more than 256 shared arrays in one block");
    // Filled without the sanitizers' interceptors: poison is no write of the kernel.
    volatile unsigned char* fill = start;
    for (size_t i = 0; i < bytes; ++i) fill[i] = 0xFF;
    for (size_t i = bytes; i < whole; ++i) fill[i] = guard_fill;
    world.shared.push_back({key, start, bytes, name, site, dynamic});
    return start;
}

unsigned present_lanes(unsigned rank) {
    const unsigned first = rank / lanes * lanes;
    const unsigned count = static_cast<unsigned>(world.fibers.size()) - first;
    return count >= lanes ? ~0u : (1u << count) - 1;
}

Rendezvous& join(Fiber& fiber, Site site, Meeting kind, unsigned mask) {
    Warp& warp = world.warps[fiber.thread.rank / lanes];
    const unsigned bit = 1u << (fiber.thread.rank % lanes);
    Rendezvous* spare = nullptr;
    for (Rendezvous* meeting : warp.meetings) {
        if (!meeting->open) {
            spare = meeting;
            continue;
        }
        if (meeting->complete || !(meeting->mask & mask)) continue;
        if (meeting->mask != mask)
            fail(site, "different masks in one warp operation: %08x here, %08x at %s:%d (thread %u)", mask,
                 meeting->mask, base(meeting->site.file), meeting->site.line, fiber.thread.rank);
        if (meeting->kind != kind || meeting->site.line != site.line || strcmp(meeting->site.file, site.file) != 0)
            fail(site, "divergent warp operation: %s:%d vs line %d (thread %u)", base(meeting->site.file),
                 meeting->site.line, site.line, fiber.thread.rank);
        meeting->arrived |= bit;
        return *meeting;
    }
    if (!spare) {
        if (warp.meetings.size() == lanes) fail(site, "more than %u warp operations are open in one warp", lanes);
        Unwatched unwatched;
        spare = new Rendezvous;
        warp.meetings.push_back(spare);
    }
    spare->open = true;
    spare->complete = spare->multiplied = false;
    spare->kind = kind;
    spare->site = site;
    spare->mask = mask;
    spare->arrived = bit;
    spare->held = mask;
    return *spare;
}

}  // namespace

void fail(Site site, const char* format, ...) {
    char text[800];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    snprintf(world.message, sizeof world.message, "%s:%d: %s", site.file, site.line, text);
    world.failed = true;
    release(&world.end_token);
    to_scheduler();
    abort();
}

void barrier(Site site) {
    Fiber& fiber = self();
    leave_meeting(fiber);
    if (world.waiting == 0) {
        world.barrier_site = site;
        world.barrier_first = fiber.thread.rank;
    } else if (site.line != world.barrier_site.line || strcmp(site.file, world.barrier_site.file) != 0) {
        fail(world.barrier_site, "divergent __syncthreads: line %d vs %d (thread %u)", world.barrier_site.line,
             site.line, fiber.thread.rank);
    }
    // Two tokens in turn: who is late out of this barrier must not learn from who is early at the next.
    void* const token = &world.barrier_tokens[2 * world.blocks + world.passed % 2];
    release(token);
    fiber.site = site;
    if (++world.waiting == world.fibers.size()) {
        world.waiting = 0;
        ++world.passed;
        for (Fiber& other : world.fibers) other.standing = Standing::ready;
    } else {
        fiber.standing = Standing::at_barrier;
    }
    to_scheduler();  // the last one too, so that the schedule decides who goes first
    acquire(token);
}

void meet(Site site, Meeting kind, unsigned mask, const void* payload, unsigned bytes) {
    Fiber& fiber = self();
    leave_meeting(fiber);
    mask &= present_lanes(fiber.thread.rank);
    const unsigned lane = fiber.thread.rank % lanes;
    if (!(mask >> lane & 1)) fail(site, "lane %u is not in the mask %08x of its own warp operation", lane, mask);
    Rendezvous& meeting = join(fiber, site, kind, mask);
    const unsigned char* from = static_cast<const unsigned char*>(payload);
    unsigned char* to = reinterpret_cast<unsigned char*>(meeting.payload[lane]);
    for (unsigned i = 0; i < bytes; ++i) to[i] = from[i];
    meeting.bytes = bytes;
    fiber.meeting = &meeting;
    fiber.site = site;
    release(&meeting);
    if (meeting.arrived == mask) {
        meeting.complete = true;
        const unsigned first = fiber.thread.rank - lane;
        for (unsigned other = 0; other < lanes; ++other)
            if (mask >> other & 1) world.fibers[first + other].standing = Standing::ready;
    } else {
        fiber.standing = Standing::in_meeting;
        to_scheduler();
    }
    acquire(&meeting);
}

void take(Site site, unsigned lane, void* out, unsigned bytes) {
    Fiber& fiber = self();
    const Rendezvous& meeting = *fiber.meeting;
    if (!(meeting.mask >> lane & 1))
        fail(site, "thread %u reads lane %u, which is outside the mask %08x", fiber.thread.rank, lane, meeting.mask);
    const unsigned char* from = reinterpret_cast<const unsigned char*>(meeting.payload[lane]);
    for (unsigned i = 0; i < bytes; ++i) static_cast<unsigned char*>(out)[i] = from[i];
}

void multiply(bool half, float* sums) {
    Fiber& fiber = self();
    Rendezvous& meeting = *fiber.meeting;
    if (meeting.mask != ~0u) fail(meeting.site, "mma needs all 32 lanes; mask is %08x", meeting.mask);
    if (!meeting.multiplied) multiply_tile(half, meeting.payload, meeting.sums);
    meeting.multiplied = true;
    for (unsigned i = 0; i < 4; ++i) sums[i] += meeting.sums[fiber.thread.rank % lanes][i];
}

void* shared_array(const void* key, size_t bytes, const char* name, Site site) {
    return allocate(key, bytes, name, site, false);
}

void* carve(const void* key, size_t bytes, const char* name, Site site) {
    for (const Shared& shared : world.shared)
        if (shared.key == key) return shared.bytes;
    world.carved += (bytes + 127) / 128 * 128;
    if (world.carved > world.launch.dynamic_bytes)
        fail(site, "\"%s\" ends at byte %zu of dynamic shared memory; the launch gives %zu", name, world.carved,
             world.launch.dynamic_bytes);
    return allocate(key, bytes, name, site, true);
}

void copy_later(Copy copy) {
    if (reinterpret_cast<size_t>(copy.to) % 16 || reinterpret_cast<size_t>(copy.from) % 16)
        fail(copy.site, "cp.async of 16 bytes needs both addresses aligned to 16 (thread %u)", current->rank);
    self().copies.push_back(copy);
}

void copy_commit() {
    Fiber& fiber = self();
    fiber.groups.push_back(fiber.copies.size());
}

bool copy_next(unsigned groups_in_flight, Copy* due) {
    Fiber& fiber = self();
    const size_t groups = fiber.groups.size();
    const size_t end = groups > groups_in_flight ? fiber.groups[groups - 1 - groups_in_flight] : 0;
    if (fiber.copied < end) {
        *due = fiber.copies[fiber.copied++];
        return true;
    }
    if (fiber.copied == fiber.copies.size()) {
        fiber.copies.clear();
        fiber.groups.clear();
        fiber.copied = 0;
    }
    return false;
}

// Blocks that ran before are then seen by chance only: a new thread may have the identity of an old one.
void forget_identities() {
    for (void* fiber : world.retired) __tsan_destroy_fiber(fiber);
    world.retired.clear();
}

const char* run(const Launch& launch) {
    world.launch = launch;
    world.failed = false;
    world.random = 0x9E3779B97F4A7C15ull * (launch.seed + 1 + static_cast<unsigned>(launch.schedule));
    const unsigned count = launch.block.x * launch.block.y * launch.block.z;
    world.fibers.clear();
    world.fibers.resize(count);
    world.warps.clear();
    world.warps.resize((count + lanes - 1) / lanes);
    for (Warp& warp : world.warps) warp.meetings.reserve(lanes);  // growing would look like a race between threads
    world.shared.reserve(256);
    world.order.resize(count);
    for (unsigned i = 0; i < count; ++i) world.order[i] = launch.schedule == 1 ? count - 1 - i : i;
    world.warp_order.resize(world.warps.size());
    for (unsigned i = 0; i < world.warp_order.size(); ++i) world.warp_order[i] = i;
    if (__tsan_get_current_fiber) world.scheduler_tsan = __tsan_get_current_fiber();
    const unsigned blocks = launch.grid.x * launch.grid.y * launch.grid.z;
    world.barrier_tokens.assign(2 * blocks, 0);
    std::vector<unsigned> block_order(blocks);
    for (unsigned i = 0; i < blocks; ++i) block_order[i] = launch.schedule == 1 ? blocks - 1 - i : i;
    if (launch.schedule == 2 || launch.schedule == 3 || launch.schedule == 5) shuffle(block_order);
    for (unsigned i = 0; i < blocks && !world.failed; ++i) {
        const unsigned b = block_order[i];
        world.blocks = i;
        if (world.retired.size() + count > most_identities) forget_identities();
        run_block({b % launch.grid.x, b / launch.grid.x % launch.grid.y, b / (launch.grid.x * launch.grid.y)});
    }
    current = nullptr;
    acquire(&world.end_token);  // only now: blocks of one launch are not ordered
    forget_identities();
    for (Warp& warp : world.warps)
        for (Rendezvous* meeting : warp.meetings) delete meeting;
    for (Rendezvous* meeting : world.old_meetings) delete meeting;
    world.old_meetings.clear();
    world.warps.clear();
    for (unsigned char* stack : world.old_stacks) munmap(stack, stack_bytes);
    world.old_stacks.clear();
    while (world.stacks.size() > idle_stacks) {
        munmap(world.stacks.back(), stack_bytes);
        world.stacks.pop_back();
    }
    return world.failed ? world.message : nullptr;
}

}  // namespace hecate_host

// The door for ctypes: cuLaunchKernel's arguments, and the schedule beside them.
extern "C" __attribute__((visibility("default"))) const char* hecate_launch(
    hecate_host::Entry entry, const unsigned* grid, const unsigned* block, size_t dynamic_bytes, void** arguments,
    int schedule) {
    hecate_host::Launch launch{entry,         arguments, {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]},
                               dynamic_bytes, schedule,  0};
    return hecate_host::run(launch);
}
