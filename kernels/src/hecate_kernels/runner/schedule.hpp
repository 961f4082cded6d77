// The life of a block: its fibers are laid out, resumed in the launch's order, and judged when none can go on.
#pragma once
#include "shared_memory.hpp"
#include "warp.hpp"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

namespace hecate_host {

namespace {

constexpr size_t stack_bytes = 256 * 1024;
constexpr unsigned most_idle_sweeps = 100000;

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
    if (world.fibers[rank].standing != Standing::paused) world.idle_sweeps = 0;
    return true;
}

// One sweep in the launch's order; a greedy schedule lets a warp run to its next barrier first.
bool sweep() {
    bool moved = false;
    ++world.idle_sweeps;
    const unsigned count = static_cast<unsigned>(world.fibers.size());
    for (Fiber& fiber : world.fibers)
        if (fiber.standing == Standing::paused) fiber.standing = Standing::ready;
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

// Threads that pause go on for ever. On a GPU another block might help them; here those run before and after.
void report_idle() {
    for (const Fiber& fiber : world.fibers) {
        if (fiber.standing != Standing::paused) continue;
        snprintf(world.message, sizeof world.message,
                 "%s:%d: thread %u waits for what no thread of its block changes; here blocks run one after the other",
                 fiber.site.file ? fiber.site.file : "host", fiber.site.line, fiber.thread.rank);
        world.failed = true;
        return;
    }
}

void prepare_block(Index3 block) {
    world.waiting = world.done = world.passed = 0;
    world.static_bytes = 0;
    world.idle_sweeps = 0;
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
        fiber.fenced = nullptr;
        fiber.observed.clear();
        fiber.last_address = nullptr;
        fiber.site = {};
        // Stack tops are staggered (they would share cache sets) and 8 modulo 16 at entry.
        unsigned char* top = stacks[rank] + stack_bytes - 64 - (rank % 32) * 192;
        void** frame = reinterpret_cast<void**>(top - 8);
        *--frame = reinterpret_cast<void*>(fiber_body);
        for (int i = 0; i < 6; ++i) *--frame = nullptr;
        fiber.stack_pointer = frame;
        if (__tsan_create_fiber) {
            const bool again = world.launch.told == Told::threads && rank < world.retired.size();
            if (again || (world.launch.told == Told::blocks && rank)) {
                fiber.tsan = again ? world.retired[rank] : world.retired.back();
                continue;
            }
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

// Blocks that ThreadSanitizer tells apart have stacks of their own: a local variable is nobody else's memory.
void ensure_stacks(size_t count) {
    if (__tsan_create_fiber && world.launch.told != Told::threads) {
        world.old_stacks.insert(world.old_stacks.end(), stacks.begin(), stacks.end());
        stacks.clear();
    }
    const size_t missing = stacks.size() < count ? count - stacks.size() : 0;
    if (!missing) return;
    void* made = mmap(nullptr, missing * stack_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (made == MAP_FAILED) {
        world.failed = true;
        snprintf(world.message, sizeof world.message, "host: no memory for %zu thread stacks", count);
        return;
    }
    for (size_t i = 0; i < missing; ++i) {
        unsigned char* stack = static_cast<unsigned char*>(made) + i * stack_bytes;
        // Running over the end is a fault, not a neighbour's data. Where the stacks of many blocks stand at once, guards
        // between them would be more mappings than Linux gives a process; the other builds run the same code.
        if (!__tsan_create_fiber) mprotect(stack, 4096, PROT_NONE);
        stacks.push_back(stack);
    }
}

void run_block(Index3 block) {
    ensure_stacks(world.fibers.size());
    if (world.failed) return;
    prepare_block(block);
    while (!world.failed && world.done < world.fibers.size())
        if (!sweep() && !world.failed)
            report_stuck();
        else if (world.idle_sweeps > most_idle_sweeps && !world.failed)
            report_idle();
    close_shared();
}

}  // namespace

}  // namespace hecate_host
