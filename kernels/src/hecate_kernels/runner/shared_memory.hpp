// Shared arrays of a block, poisoned and guarded, and copies that arrive when they are waited for.
#pragma once
#include "world.hpp"

#include <stdio.h>
#include <stdlib.h>

namespace hecate_host {

namespace {

constexpr size_t guard_bytes = 64;
constexpr unsigned char guard_fill = 0xA5;

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

}  // namespace

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

}  // namespace hecate_host
