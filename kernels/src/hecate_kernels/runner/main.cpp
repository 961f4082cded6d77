// A launch as a program of its own: reads one launch file, runs it under the asked schedules, writes
// the buffers back. Built plain, with AddressSanitizer and with ThreadSanitizer (which Python cannot load).
//
//   program LAUNCH RESULT
//
// LAUNCH: "HKL2" name[64] grid[3] block[3] (u32) dynamic (u64) schedules (u32) index[6] (u32)
//         arguments (u32), then for each: kind (u32: 0 scalar, 1 buffer) shift (u32) bytes (u64) data.
//         A buffer begins `shift` bytes (below 256) behind a multiple of 256, as it does on a GPU.
// RESULT: the buffers after the first schedule, one after another.
// Exit status: 0 done, 3 the runner found a fault (one line on stderr), 4 results depend on the schedule.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <vector>

#include "runner.hpp"

extern const hecate_host::NamedEntry hecate_entries[];
extern "C" void __asan_poison_memory_region(void const volatile*, size_t) __attribute__((weak));

namespace {

struct Argument {
    unsigned kind = 0, shift = 0;
    std::vector<unsigned char> initial;
    unsigned char* whole = nullptr;
    unsigned char* memory = nullptr;  // `shift` bytes behind `whole`
};

void need(bool good, const char* what) {
    if (good) return;
    fprintf(stderr, "launch file: %s\n", what);
    exit(2);
}

template <class T>
T read(FILE* file) {
    T value{};
    need(fread(&value, sizeof value, 1, file) == 1, "ends too early");
    return value;
}

// One allocation per buffer and schedule: AddressSanitizer puts its red zones around each.
void fresh(Argument& argument) {
    const size_t bytes = argument.initial.size(), whole = argument.shift + bytes;
    free(argument.whole);
    void* memory = nullptr;
    need(posix_memalign(&memory, 256, whole ? whole : 1) == 0, "no memory");
    argument.whole = static_cast<unsigned char*>(memory);
    argument.memory = argument.whole + argument.shift;
    if (__asan_poison_memory_region) __asan_poison_memory_region(argument.whole, argument.shift);
    if (bytes) memcpy(argument.memory, argument.initial.data(), bytes);
}

}  // namespace

int main(int count, char** words) {
    need(count == 3, "usage: program LAUNCH RESULT");
    FILE* file = fopen(words[1], "rb");
    need(file, "cannot be opened");
    char magic[4];
    need(fread(magic, 4, 1, file) == 1 && memcmp(magic, "HKL2", 4) == 0, "is not one");
    char name[64];
    need(fread(name, sizeof name, 1, file) == 1, "ends too early");
    hecate_host::Launch launch{};
    launch.grid = read<hecate_host::Index3>(file);
    launch.block = read<hecate_host::Index3>(file);
    launch.dynamic_bytes = read<unsigned long long>(file);
    const unsigned schedules = read<unsigned>(file);
    unsigned chosen[hecate_host::schedule_count];
    for (unsigned& index : chosen) index = read<unsigned>(file);
    std::vector<Argument> arguments(read<unsigned>(file));
    for (Argument& argument : arguments) {
        argument.kind = read<unsigned>(file);
        argument.shift = read<unsigned>(file);
        argument.initial.resize(read<unsigned long long>(file));
        const size_t bytes = argument.initial.size();
        need(!bytes || fread(argument.initial.data(), bytes, 1, file) == 1, "ends too early");
    }
    fclose(file);
    for (const hecate_host::NamedEntry* entry = hecate_entries; entry->name; ++entry)
        if (strcmp(entry->name, name) == 0) launch.entry = entry->entry;
    need(launch.entry, "names a kernel that is not here");

    std::vector<std::vector<unsigned char>> first;
    const bool races = hecate_host::is_racecheck();
    const bool alone = launch.grid.x * launch.grid.y * launch.grid.z == 1;
    std::vector<hecate_host::Told> runs(schedules, races ? hecate_host::Told::threads : hecate_host::Told::both);
    if (races && !alone) runs.push_back(hecate_host::Told::blocks);
    for (size_t run = 0; run < runs.size(); ++run) {
        std::vector<void*> pointers;
        for (Argument& argument : arguments) {
            fresh(argument);
            pointers.push_back(argument.kind ? static_cast<void*>(&argument.memory) : argument.memory);
        }
        launch.arguments = pointers.data();
        launch.told = runs[run];
        launch.schedule = static_cast<int>(chosen[run < schedules ? run : 0]);
        if (const char* message = hecate_host::run(launch)) {
            fprintf(stderr, "%s (schedule %s)\n", message, hecate_host::schedule_names[launch.schedule]);
            _exit(3);
        }
        if (launch.told == hecate_host::Told::blocks && hecate_host::fenced_blocks())
            runs.push_back(hecate_host::Told::both);
        for (size_t i = 0, slot = 0; i < arguments.size(); ++i) {
            if (!arguments[i].kind) continue;
            const size_t bytes = arguments[i].initial.size();
            if (run == 0) {
                first.emplace_back(arguments[i].memory, arguments[i].memory + bytes);
            } else if (bytes && memcmp(first[slot].data(), arguments[i].memory, bytes) != 0) {
                fprintf(stderr, "argument %zu of %s differs between schedules %s and %s\n", i, name,
                        hecate_host::schedule_names[chosen[0]], hecate_host::schedule_names[launch.schedule]);
                _exit(4);
            }
            ++slot;
        }
    }
    FILE* result = fopen(words[2], "wb");
    need(result, "the result cannot be written");
    for (const auto& bytes : first) need(bytes.empty() || fwrite(bytes.data(), bytes.size(), 1, result) == 1, "full disk");
    need(fclose(result) == 0, "full disk");
    for (Argument& argument : arguments) free(argument.whole);
    return 0;
}
