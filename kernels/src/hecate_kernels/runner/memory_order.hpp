// Fences, as PTX orders memory: a fence, then a write that another thread reads, then its fence, order what came before
// the first after the last one. Atomics and volatile accesses are such writes and reads; alone they order nothing.
//
// ThreadSanitizer knows no fences, so each is a token of its own that is released to; what is written after it carries
// the token along, and who has read that acquires it at a fence of its own.
#pragma once
#include "world.hpp"

#include <stdlib.h>

extern "C" {
int __tsan_atomic8_load(const volatile void*, int) __attribute__((weak));
int __tsan_atomic16_load(const volatile void*, int) __attribute__((weak));
int __tsan_atomic32_load(const volatile void*, int) __attribute__((weak));
long __tsan_atomic64_load(const volatile void*, int) __attribute__((weak));
int __tsan_atomic8_fetch_add(volatile void*, int, int) __attribute__((weak));
int __tsan_atomic16_fetch_add(volatile void*, int, int) __attribute__((weak));
int __tsan_atomic32_fetch_add(volatile void*, int, int) __attribute__((weak));
long __tsan_atomic64_fetch_add(volatile void*, long, int) __attribute__((weak));
}

namespace hecate_host {

namespace {

// A fence of the block alone orders its own threads only.
bool meets(const Fence& one, unsigned block, bool device) { return one.block == block || (one.device && device); }

void add_once(std::vector<const Fence*>& to, const Fence* one) {
    for (const Fence* known : to)
        if (known == one) return;
    to.push_back(one);
}

void strong_read(const volatile void* address) {
    const auto found = world.published.find(address);
    if (found == world.published.end()) return;
    for (const Fence* one : found->second) add_once(self().observed, one);
}

// A read-modify-write goes on with what it found, a plain write begins anew.
void strong_write(const volatile void* address, bool changes) {
    const Fence* const mine = self().fenced;
    if (!mine && (changes || world.published.empty())) return;
    std::vector<const Fence*>& here = world.published[address];
    if (!changes) here.clear();
    if (mine) add_once(here, mine);
}

// A loop that finds the same again and again waits for somebody.
bool waits(const volatile void* address, unsigned long long seen) {
    Fiber& fiber = self();
    const bool again = fiber.last_address == address && fiber.last_seen == seen;
    fiber.last_address = address;
    fiber.last_seen = seen;
    return again;
}

void forget_fences() {
    Unwatched unwatched;
    for (Fence* fence : world.fences) free(fence);
    world.fences.clear();
    world.published.clear();
}

}  // namespace

// Also the place where a thread that waits for another lets it go on.
void pause(Site site) {
    Fiber& fiber = self();
    if (site.file) fiber.site = site;
    fiber.standing = Standing::paused;
    to_scheduler();
}

void fence(Site site, bool device) {
    if (__tsan_release) {
        Unwatched unwatched;
        Fiber& fiber = self();
        for (const Fence* seen : fiber.observed)
            if (meets(*seen, world.blocks, device)) acquire(const_cast<Fence*>(seen));
        Fence* const mine = static_cast<Fence*>(malloc(sizeof(Fence)));  // its memory is the token
        *mine = {world.blocks, device};
        release(mine);
        world.fences.push_back(mine);
        fiber.fenced = mine;
        world.fenced_blocks |= device;
        if (device) fiber.observed.clear();
    }
    pause(site);
}

void atomic_done(Site site, const volatile void* address, unsigned long long seen, bool wrote) {
    if (__tsan_release) {
        Unwatched unwatched;
        strong_read(address);
        if (wrote) strong_write(address, true);
    }
    if (waits(address, seen)) pause(site);
}

void volatile_access(const volatile void* address, unsigned long long seen, bool writes) {
    if (!writes && waits(address, seen)) pause({});
    Unwatched unwatched;
    if (writes)
        strong_write(address, false);
    else
        strong_read(address);
}

}  // namespace hecate_host

// What g++ calls before a volatile access under ThreadSanitizer: a relaxed atomic of the same size, in a tail call, so
// that a report names the kernel's line.
#define HECATE_VOLATILE(bits, bytes, type)                                                                       \
    extern "C" __attribute__((visibility("hidden"))) void __tsan_volatile_read##bytes(volatile void* address) {  \
        hecate_host::volatile_access(address, *static_cast<volatile type*>(address), false);                     \
        __tsan_atomic##bits##_load(address, 0);                                                                  \
    }                                                                                                            \
    extern "C" __attribute__((visibility("hidden"))) void __tsan_volatile_write##bytes(volatile void* address) { \
        hecate_host::volatile_access(address, 0, true);                                                          \
        __tsan_atomic##bits##_fetch_add(address, 0, 0);                                                          \
    }
HECATE_VOLATILE(8, 1, unsigned char)
HECATE_VOLATILE(16, 2, unsigned short)
HECATE_VOLATILE(32, 4, unsigned)
HECATE_VOLATILE(64, 8, unsigned long long)
