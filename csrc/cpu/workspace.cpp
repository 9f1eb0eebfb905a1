#include "cpu/workspace.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <vector>

#include "cpu/pages.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace tsm {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif
constexpr int kPattern = 0xa5;  // of a red zone
std::atomic<bool> g_guarded{kSanitized};

// Freed blocks wait here for the next call: fresh pages cost more than the work on a small batch. Slots are exchanged
// without a lock, so that a fork in the middle of another thread's call leaves nothing held.
struct Block {
    int64_t bytes;
    uintptr_t begin() const { return reinterpret_cast<uintptr_t>(this) + 64; }
    uintptr_t end() const { return begin() + static_cast<uintptr_t>(bytes); }
};
constexpr int kSlots = 16;
constexpr int64_t kFirstBytes = int64_t{1} << 20;
constexpr int64_t kKeptBytes = int64_t{3} << 20;  // larger blocks are not kept
std::atomic<Block*> g_slots[kSlots];

void put_block(Block* block) {
    if (block->bytes <= kKeptBytes)
        for (auto& slot : g_slots) {
            Block* empty = nullptr;
            if (!slot.load(std::memory_order_relaxed) && slot.compare_exchange_strong(empty, block)) return;
        }
    std::free(block);
}

// The smallest block that waits and is large enough, or a new one.
Block* take_block(int64_t bytes) {
    bytes = std::max(bytes, kFirstBytes);
    Block* best = nullptr;
    for (auto& slot : g_slots) {
        if (!slot.load(std::memory_order_relaxed)) continue;
        Block* block = slot.exchange(nullptr);
        if (block && block->bytes >= bytes && (!best || block->bytes < best->bytes)) std::swap(block, best);
        if (block) put_block(block);
    }
    if (best) return best;
    if (bytes > int64_t{1} << 46) throw std::bad_alloc();
    const int64_t rounded = (bytes + 64 + 4095) / 4096 * 4096;
    auto* block = static_cast<Block*>(std::aligned_alloc(64, static_cast<size_t>(rounded)));
    if (!block) throw std::bad_alloc();
    if (rounded > kKeptBytes) prefer_large_pages(block, rounded);
    block->bytes = rounded - 64;
    return block;
}

struct RedZone {
    int block;
    uintptr_t begin, end;
    bool untouched() const {
        if (kSanitized) return true;  // an access would have ended the process
        const auto* at = reinterpret_cast<const unsigned char*>(begin);
        return std::all_of(at, at + (end - begin), [](unsigned char byte) { return byte == kPattern; });
    }
};

void open(const Block& block) {
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(reinterpret_cast<void*>(block.begin()), static_cast<size_t>(block.bytes));
#else
    (void)block;
#endif
}

}  // namespace

struct Workspace::Impl {
    std::vector<Block*> blocks;
    std::vector<RedZone> zones;  // in the order of their places
    bool guarded;

    // Looks at the red zones of scopes that have ended: those from `place` of `block` on.
    void check_from(int block, uintptr_t place) {
        while (!zones.empty() &&
               (zones.back().block > block || (zones.back().block == block && zones.back().end > place))) {
            if (!zones.back().untouched()) throw std::logic_error("tsm_fast wrote beyond a piece of its workspace");
            zones.pop_back();
        }
    }
};

Workspace::Workspace() : impl_(new Impl{{}, {}, g_guarded.load()}) {
    impl_->blocks.reserve(8);
}

Workspace::~Workspace() {
    for (Block* block : impl_->blocks) {
        open(*block);
        put_block(block);
    }
    delete impl_;
}

ArenaState Workspace::start() {
    if (impl_->guarded) check();
    return {this, 0, 0, -1, impl_->guarded};
}

void Workspace::check() {
    impl_->check_from(-1, 0);
}

void next_block(ArenaState& at, int64_t bytes) {
    auto& blocks = at.memory->impl_->blocks;
    const auto next = static_cast<size_t>(at.block + 1);
    if (at.guarded) at.memory->impl_->check_from(at.block + 1, 0);
    if (next < blocks.size() && blocks[next]->bytes < bytes) {
        open(*blocks[next]);
        put_block(blocks[next]);
        blocks.erase(blocks.begin() + static_cast<std::ptrdiff_t>(next));
    }
    if (next == blocks.size() || blocks[next]->bytes < bytes)
        blocks.insert(blocks.begin() + static_cast<std::ptrdiff_t>(next), take_block(bytes));
    at.block = static_cast<int>(next);
    at.next = blocks[next]->begin();
    at.end = blocks[next]->end();
}

void watch(const ArenaState& at, uintptr_t piece, int64_t bytes) {
    Workspace::Impl& own = *at.memory->impl_;
    const uintptr_t end = piece + static_cast<uintptr_t>(bytes);
    own.check_from(at.block, piece);
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(reinterpret_cast<void*>(piece), static_cast<size_t>(bytes));
    ASAN_POISON_MEMORY_REGION(reinterpret_cast<void*>(end), static_cast<size_t>(at.end - end));
#else
    std::memset(reinterpret_cast<void*>(end), kPattern, static_cast<size_t>(at.next - end));
#endif
    std::memset(reinterpret_cast<void*>(piece), 0xff, static_cast<size_t>(bytes));
    own.zones.push_back({at.block, end, at.next});
}

void guard_workspaces(bool on) {
    g_guarded.store(on || kSanitized);
}

}  // namespace tsm
