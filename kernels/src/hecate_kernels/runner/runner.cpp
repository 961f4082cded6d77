// Runs one kernel launch on the CPU: a fiber per CUDA thread of a block, blocks one after another.
//
// Barriers and warp operations are the only places where a fiber gives up the processor, so a
// schedule is an order in which runnable threads are resumed. Under ThreadSanitizer every CUDA
// thread is a fiber of its own and switches carry no ordering; only barriers and warp operations
// do, so happens-before is exactly CUDA's.
#include "memory_order.hpp"
#include "schedule.hpp"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <vector>

namespace hecate_host {

Thread* current = nullptr;
const char* const schedule_names[schedule_count] = {"ascending", "descending", "random-1",
                                                    "random-2",  "greedy-up",  "greedy-random"};

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

unsigned barrier(Site site, bool vote) {
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
    const unsigned slot = world.passed % 2;
    world.votes[slot] = (world.waiting ? world.votes[slot] : 0) + vote;
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
    return world.votes[slot];
}

namespace {

constexpr unsigned long long most_identities = 2048;  // alive at once under TSan, which slows down with them, ends at 8,000
#ifdef __clang__
constexpr size_t idle_stacks = 64;  // of each library; a process may map 65,000 pieces, and load hundreds of kernels
#else
constexpr size_t idle_stacks = 1024;  // of the process: as many as a block has threads
#endif

// Blocks that ran before are then seen by chance only, for a new thread may have the identity of an old one.
void forget_identities() {
    for (void* fiber : world.retired) __tsan_destroy_fiber(fiber);
    world.retired.clear();
}

}  // namespace

bool is_racecheck() { return __tsan_create_fiber; }

bool fenced_blocks() { return world.fenced_blocks; }

const char* run(const Launch& launch) {
    world.launch = launch;
    world.failed = world.fenced_blocks = false;
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
        const unsigned more = launch.told == Told::both ? count : launch.told == Told::blocks;
        if (world.retired.size() + more > most_identities) forget_identities();
        run_block({b % launch.grid.x, b / launch.grid.x % launch.grid.y, b / (launch.grid.x * launch.grid.y)});
    }
    current = nullptr;
    acquire(&world.end_token);  // only now: blocks of one launch are not ordered
    forget_identities();
    forget_fences();
    for (Warp& warp : world.warps)
        world.old_meetings.insert(world.old_meetings.end(), warp.meetings.begin(), warp.meetings.end());
    for (Rendezvous* meeting : world.old_meetings) {
        free(meeting->token);
        delete meeting;
    }
    world.old_meetings.clear();
    world.warps.clear();
    for (unsigned char* stack : world.old_stacks) munmap(stack, stack_bytes);
    world.old_stacks.clear();
    while (stacks.size() > idle_stacks) {
        munmap(stacks.back(), stack_bytes);
        stacks.pop_back();
    }
    return world.failed ? world.message : nullptr;
}

}  // namespace hecate_host

// The door for ctypes: cuLaunchKernel's arguments, and the schedule beside them.
extern "C" __attribute__((visibility("default"))) const char* hecate_launch(
    hecate_host::Entry entry, const unsigned* grid, const unsigned* block, size_t dynamic_bytes, void** arguments,
    int schedule) {
    hecate_host::Launch launch{entry,         arguments, {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]},
                               dynamic_bytes, schedule,  0, hecate_host::Told::both};
    return hecate_host::run(launch);
}
