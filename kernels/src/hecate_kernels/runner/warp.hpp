// Warp operations: the lanes of a mask meet at one place, bring what they have and take what they need.
#pragma once
#include "tensor_core.hpp"
#include "world.hpp"

#include <stdlib.h>
#include <string.h>

namespace hecate_host {

namespace {

const char* base(const char* file) {
    const char* slash = strrchr(file, '/');
    return slash ? slash + 1 : file;
}

void leave_meeting(Fiber& fiber) {
    if (!fiber.meeting) return;
    Rendezvous& old = *fiber.meeting;
    old.held &= ~(1u << (fiber.thread.rank % lanes));
    if (!old.held) {
        old.open = false;
        Unwatched unwatched;
        free(old.token);  // and what is known of its order with it
        old.token = nullptr;
    }
    fiber.meeting = nullptr;
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
    if (kind == Meeting::sync && __tsan_release) {  // no other warp operation orders memory
        Unwatched unwatched;
        if (!meeting.token) meeting.token = malloc(16);
        release(meeting.token);
    }
    if (meeting.arrived == mask) {
        meeting.complete = true;
        const unsigned first = fiber.thread.rank - lane;
        for (unsigned other = 0; other < lanes; ++other)
            if (mask >> other & 1) world.fibers[first + other].standing = Standing::ready;
    } else {
        fiber.standing = Standing::in_meeting;
        to_scheduler();
    }
    if (meeting.token) acquire(meeting.token);
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

}  // namespace hecate_host
