// What a launch knows: its fibers, warps, shared arrays and the order in which they go on.
#pragma once
#include "runner.hpp"
#include "switch.hpp"

#include <unordered_map>
#include <vector>

namespace hecate_host {

// Stacks that no fiber runs on. g++ makes an inline variable one object of the whole process, whichever library
// defines it: hundreds of kernels share these, and mapping them anew would cost more than most launches.
inline std::vector<unsigned char*> stacks;

namespace {

constexpr unsigned lanes = 32;
constexpr unsigned payload_words = 8;

enum class Standing { ready, paused, at_barrier, in_meeting, done };

// One warp operation in progress; kept until every lane of it has come back for more.
struct Rendezvous {
    bool open = false, complete = false;
    Meeting kind = Meeting::sync;
    Site site{};
    unsigned mask = 0, arrived = 0, held = 0, bytes = 0;
    unsigned payload[lanes][payload_words];
    float sums[lanes][4];
    bool multiplied = false;
    void* token = nullptr;  // of this one __syncwarp: the next one here is other lanes' business
};

// A __threadfence as it was reached; see memory_order.hpp.
struct Fence {
    unsigned block;  // in the order of running
    bool device;
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
    const Fence* fenced = nullptr;         // its last fence
    std::vector<const Fence*> observed;    // others' fences before what it has read by atomics
    const volatile void* last_address = nullptr;
    unsigned long long last_seen = 0;      // by its last atomic
};

struct Shared {
    const void* key;
    unsigned char* bytes;
    size_t size;
    const char* name;
    Site site;
    size_t begin;  // in dynamic shared memory; `key` is null there
};

struct Warp {
    std::vector<Rendezvous*> meetings;
};

struct World {
    Launch launch{};
    std::vector<Fiber> fibers;
    std::vector<unsigned char*> old_stacks;
    std::vector<Warp> warps;
    std::vector<Shared> shared;
    std::vector<void*> retired;  // TSan identities; each outlives its block, or races between blocks hide
    std::vector<unsigned> order, warp_order;
    size_t static_bytes = 0;
    unsigned waiting = 0, done = 0;
    unsigned idle_sweeps = 0;  // in a row, in which every thread that went on only waited
    Site barrier_site{};
    unsigned barrier_first = 0;
    unsigned votes[2] = {0, 0};  // of two barriers in turn
    void* scheduler = nullptr;
    void* scheduler_tsan = nullptr;
    unsigned long long random = 0;
    bool failed = false;
    bool fenced_blocks = false;
    char message[1024];
    unsigned passed = 0, blocks = 0;  // barriers of this block; blocks before it
    char start_token = 0, end_token = 0;
    std::vector<char> barrier_tokens;          // two per block: blocks learn nothing from each other
    std::vector<Rendezvous*> old_meetings;
    std::vector<Fence*> fences;
    std::unordered_map<const volatile void*, std::vector<const Fence*>> published;  // fences before what is written there
} world;

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

}  // namespace

}  // namespace hecate_host
