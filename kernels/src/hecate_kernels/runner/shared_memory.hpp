// Shared arrays of a block, poisoned and guarded, and copies that arrive when they are waited for.
#pragma once
#include "world.hpp"

#include <stdio.h>
#include <stdlib.h>

namespace hecate_host {

namespace {

constexpr size_t guard_bytes = 64;
constexpr unsigned char guard_fill = 0xA5;
constexpr size_t most_static = 48 * 1024;   // of any card
constexpr size_t most_shared = 227 * 1024;  // static and dynamic together, of sm_90a and sm_100

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

unsigned char* allocate(const void* key, size_t begin, size_t bytes, const char* name, Site site) {
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
    world.shared.push_back({key, start, bytes, name, site, begin});
    return start;
}

}  // namespace

void* shared_array(const void* key, size_t bytes, const char* name, Site site) {
    for (const Shared& shared : world.shared)
        if (shared.key == key) return shared.bytes;
    world.static_bytes += (bytes + 15) / 16 * 16;
    if (world.static_bytes > most_static)
        fail(site, "\"%s\" ends at byte %zu of static shared memory, of which CUDA gives %zu; carve it from an arena", name,
             world.static_bytes, most_static);
    if (world.static_bytes + world.launch.dynamic_bytes > most_shared)
        fail(site, "%zu bytes of static and %zu of dynamic shared memory; a block has at most %zu", world.static_bytes,
             world.launch.dynamic_bytes, most_shared);
    return allocate(key, 0, bytes, name, site);
}

void* carve(unsigned* arena, size_t bytes, const char* name, Site site) {
    const size_t begin = *arena, end = begin + (bytes + 127) / 128 * 128;
    for (const Shared& other : world.shared) {
        if (other.key) continue;
        if (other.begin == begin && other.size == bytes) {
            *arena = static_cast<unsigned>(end);
            return other.bytes;
        }
        if (begin < other.begin + (other.size + 127) / 128 * 128 && other.begin < end)
            fail(site, "\"%s\" (bytes %zu to %zu) overlaps \"%s\" (bytes %zu to %zu, line %d); carve both from one arena",
                 name, begin, begin + bytes, other.name, other.begin, other.begin + other.size, other.site.line);
    }
    if (begin % 128) fail(site, "\"%s\" begins at byte %zu; an arena goes on in steps of 128", name, begin);
    if (end > world.launch.dynamic_bytes)
        fail(site, "\"%s\" ends at byte %zu of dynamic shared memory; the launch gives %zu", name, end,
             world.launch.dynamic_bytes);
    *arena = static_cast<unsigned>(end);
    return allocate(nullptr, begin, bytes, name, site);
}

bool in_shared(const void* start, size_t bytes) {
    const unsigned char* first = static_cast<const unsigned char*>(start);
    for (const Shared& shared : world.shared)
        if (first >= shared.bytes && first + bytes <= shared.bytes + shared.size) return true;
    return false;
}

void demand_copy(const Copy& copy) {
    const unsigned rank = current->rank;
    if (reinterpret_cast<size_t>(copy.to) % 16 || reinterpret_cast<size_t>(copy.from) % 16)
        fail(copy.site, "cp.async of 16 bytes needs both addresses aligned to 16 (thread %u)", rank);
    if (copy.bytes < 0 || copy.bytes > 16)
        fail(copy.site, "cp.async of 16 bytes takes 0 to 16 of them, not %d (thread %u)", copy.bytes, rank);
    if (!in_shared(copy.to, 16)) fail(copy.site, "cp.async writes 16 bytes that are in no shared array (thread %u)", rank);
}

void copy_later(const Copy& copy) { self().copies.push_back(copy); }

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
