#include "races.h"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace {

constexpr uintptr_t kPageBytes = 4096;
constexpr size_t kShown = 8;

// Marks of an access: who has read the same since the last write besides its thread; a copy that is not yet waited for.
constexpr uint16_t kOtherLanes = 1, kOtherWarps = 2, kOtherBlocks = 4, kUnderWay = 8;

// `phase` counts the barriers of blocks, on from block to block, `turn` those of the thread's warp.
struct Access {
    uint32_t phase = 0;  // 0: there was none
    uint32_t turn = 0;
    uint32_t code = 0;  // where, from the start of this module
    uint16_t thread = 0, marks = 0;
};
// The last write to some bytes, the last read since, and one that its marks stand for.
struct Cell {
    Access write, read, other;
};
// Cells of 8 bytes, or of as few as anything that lies there needs.
struct Page {
    uintptr_t step = 8;
    std::vector<Cell> cells = std::vector<Cell>(kPageBytes / 8);

    void split() {
        std::vector<Cell> halves(2 * cells.size());
        for (size_t i = 0; i < halves.size(); ++i) halves[i] = cells[i / 2];
        cells = std::move(halves);
        step /= 2;
    }
};

struct Race {
    std::string now, before;
    uint32_t code_now, code_before;
};

struct Watch {
    bool inside = false;  // a kernel
    uint32_t phase = 0, block_start = 0;
    std::array<uint32_t, 32> turns{};
    uint16_t thread = 0;
    uintptr_t stack = 0, stack_bytes = 0, shared = 0, shared_bytes = 0;
    std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
    std::array<std::pair<uintptr_t, Page*>, 256> recent{};
    std::vector<uint32_t> block_starts;
    std::set<std::pair<uint32_t, uint32_t>> known;
    std::vector<Race> races;
    uintptr_t module = 0;
    std::string module_name;

    uint32_t turn() const { return turns[thread / 32]; }
} watch;

Page& page_of(uintptr_t address) {
    const uintptr_t number = address / kPageBytes;
    auto& [last, page] = watch.recent[number % watch.recent.size()];
    if (last != number || !page) {
        auto& own = watch.pages[number];
        if (!own) own = std::make_unique<Page>();
        last = number;
        page = own.get();
    }
    return *page;
}

// visit(cell) for the cells of [address, address + size)
template <class Visit>
void each_cell(uintptr_t address, size_t size, Visit visit) {
    while (size > 0) {
        const uintptr_t first = address % kPageBytes, count = std::min<uintptr_t>(size, kPageBytes - first);
        Page& page = page_of(address);
        while ((first | count) % page.step != 0) page.split();
        for (uintptr_t i = first / page.step; i < (first + count) / page.step; ++i) visit(page.cells[i]);
        address += count;
        size -= count;
    }
}

// What the running thread does, at a return address.
Access here(const void* code, uint16_t marks = 0) {
    const auto from = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(code) - 1 - watch.module);
    return {watch.phase, watch.turn(), from, watch.thread, marks};
}

// Whether `before`, with all that it stands for, comes before what the running thread does now, in whatever order
// threads run.
bool ordered(const Access& before) {
    if (before.phase == 0) return true;
    if (before.marks & (kUnderWay | kOtherBlocks) || before.phase < watch.block_start) return false;
    if (before.phase < watch.phase) return true;
    if (before.marks & kOtherWarps || before.thread / 32 != watch.thread / 32) return false;
    return before.turn < watch.turn() || (before.thread == watch.thread && !(before.marks & kOtherLanes));
}

// The marks that the next read gets from the last one: some thread's next write is not ordered with these.
uint16_t marks_from(const Access& read) {
    if (read.phase == 0) return 0;
    if (read.phase < watch.block_start) return kOtherBlocks;
    const uint16_t blocks = read.marks & kOtherBlocks;
    if (read.phase < watch.phase) return blocks;
    const uint16_t warps = blocks | (read.marks & kOtherWarps);
    if (read.thread / 32 != watch.thread / 32) return warps | kOtherWarps;
    if (read.turn < watch.turn()) return warps;
    return warps | (read.thread != watch.thread ? kOtherLanes : read.marks & kOtherLanes);
}

std::string named(const Access& access) {
    const auto next = std::upper_bound(watch.block_starts.begin(), watch.block_starts.end(), access.phase);
    return "thread " + std::to_string(access.thread) + " of block " +
           std::to_string(next - watch.block_starts.begin() - 1);
}

void report(const Access& before, const char* did, const Access& now, const char* does, uintptr_t address,
            size_t size) {
    if (!watch.known.insert({before.code, now.code}).second) return;
    const uintptr_t at = address - watch.shared;
    const std::string where =
        at < watch.shared_bytes ? " of shared memory at " + std::to_string(at) : " in global memory";
    watch.races.push_back(
        {named(now) + does + std::to_string(size) + " bytes" + where,
         before.marks & kUnderWay ? "a copy by " + named(before) + " is still to write" : named(before) + did, now.code,
         before.code});
}

void touch(const void* memory, size_t size, bool writes, const void* code, uint16_t marks = 0) {
    const auto address = reinterpret_cast<uintptr_t>(memory);
    if (!watch.inside || address - watch.stack < watch.stack_bytes) return;
    const Access now = here(code, marks);
    const char* does = writes ? " writes " : " reads ";
    each_cell(address, size, [&](Cell& cell) {
        if (!ordered(cell.write)) report(cell.write, " wrote", now, does, address, size);
        if (writes) {
            const bool own = cell.read.thread == now.thread && cell.read.phase >= watch.block_start;
            if (!ordered(cell.read)) report(own ? cell.other : cell.read, " read", now, does, address, size);
            cell = {now, {}, {}};
            return;
        }
        const uint16_t others = marks_from(cell.read);
        const bool first = (others & ~cell.read.marks) != 0;
        if (first || (others != 0 && cell.read.thread != now.thread && cell.other.thread == now.thread))
            cell.other = cell.read;
        cell.read = now;
        cell.read.marks = others;
    });
}

// File and line, and those that they are inlined in.
std::string source(uint32_t code) {
    char at[32];
    std::snprintf(at, sizeof at, "0x%x", code);
    std::string lines;
    if (FILE* pipe = popen(("addr2line -ise '" + watch.module_name + "' " + at + " 2>/dev/null").c_str(), "r")) {
        for (char line[256]; std::fgets(line, sizeof line, pipe);) {
            const std::string whole = line;
            lines += (lines.empty() ? "" : ", in ") + whole.substr(0, whole.find_first_of(" \n"));
        }
        pclose(pipe);
    }
    return " (" + (lines.empty() ? at : lines) + ")";
}

}  // namespace

namespace races {

void start_launch() {
    if (!watch.module) {
        Dl_info info;
        if (!dladdr(reinterpret_cast<const void*>(&start_launch), &info)) throw std::logic_error("no module");
        watch.module = reinterpret_cast<uintptr_t>(info.dli_fbase);
        watch.module_name = info.dli_fname;
    }
    watch.inside = false;
    watch.phase = 0;
    watch.turns = {};
    watch.pages.clear();
    watch.recent = {};
    watch.block_starts.clear();
    watch.known.clear();
    watch.races.clear();
}

void finish_launch() {
    if (watch.races.empty()) return;
    std::string text = "races between threads: " + std::to_string(watch.races.size());
    for (size_t i = 0; i < std::min(watch.races.size(), kShown); ++i) {
        const Race& race = watch.races[i];
        text += "\n" + race.now + source(race.code_now) + " that " + race.before + source(race.code_before);
    }
    throw std::logic_error(text);
}

void start_block(const void* shared, size_t bytes) {
    watch.block_start = ++watch.phase;
    watch.block_starts.push_back(watch.phase);
    watch.shared = reinterpret_cast<uintptr_t>(shared);
    watch.shared_bytes = bytes;
    each_cell(watch.shared, (bytes + 7) / 8 * 8, [](Cell& cell) { cell = {}; });
}

void block_barrier() {
    ++watch.phase;
}

void warp_barrier(unsigned warp) {
    ++watch.turns[warp];
}

void enter(unsigned thread, const void* stack, size_t bytes) {
    watch.thread = static_cast<uint16_t>(thread);
    watch.stack = reinterpret_cast<uintptr_t>(stack);
    watch.stack_bytes = bytes;
    watch.inside = true;
}

void leave() {
    watch.inside = false;
}

void start_copy(const void* to, const void* from, size_t bytes, const void* code) {
    touch(from, bytes, false, code);
    touch(to, bytes, true, code, kUnderWay);
}

void finish_copy(const void* to, const void* from, size_t bytes, const void* code) {
    touch(from, bytes, false, code);
    const Access now = here(code);
    each_cell(reinterpret_cast<uintptr_t>(to), bytes, [&](Cell& cell) { cell = {now, {}, {}}; });
}

}  // namespace races

// What instrumented code calls.
#define TSM_ACCESS(size)                                     \
    void __tsan_read##size(void* at) {                       \
        touch(at, size, false, __builtin_return_address(0)); \
    }                                                        \
    void __tsan_write##size(void* at) {                      \
        touch(at, size, true, __builtin_return_address(0));  \
    }
extern "C" {
TSM_ACCESS(1)
TSM_ACCESS(2)
TSM_ACCESS(4)
TSM_ACCESS(8)
TSM_ACCESS(16)
void __tsan_read_range(void* at, size_t size) {
    touch(at, size, false, __builtin_return_address(0));
}
void __tsan_write_range(void* at, size_t size) {
    touch(at, size, true, __builtin_return_address(0));
}
void __tsan_vptr_update(void**, void*) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
// Of the guards of static variables, on the host.
uint8_t __tsan_atomic8_load(const volatile uint8_t* at, int order) {
    return __atomic_load_n(at, order);
}
}
