// What takes memory from a workspace, front to back. Every file that includes it has its own: no function of one SIMD
// level may be linked into another.
#pragma once
#include "cpu/workspace.h"

namespace tsm {
namespace {

struct Arena : ArenaState {
    explicit Arena(const ArenaState& at) : ArenaState(at) {}

    // 64-byte aligned, uninitialised
    template <class T>
    T* take(int64_t count) {
        const int64_t bytes = count * static_cast<int64_t>(sizeof(T)), whole = (bytes + 63) / 64 * 64;
        const int64_t needed = guarded ? whole + kRedZone : whole;
        if (static_cast<int64_t>(end - next) < needed) next_block(*this, needed);
        const uintptr_t piece = next;
        next += static_cast<uintptr_t>(needed);
        if (guarded) watch(*this, piece, bytes);
        return reinterpret_cast<T*>(piece);
    }
};

// Calls body(part, memory) for the parts of one item, as in_parts does.
template <class Body>
static inline void in_parts(const ArenaState& at, int64_t count, Body body) {
    in_parts(
        at, count,
        [](void* what, int64_t part, const ArenaState& memory) { (*static_cast<Body*>(what))(part, memory); }, &body);
}
// Calls body(first, last, memory) for ranges of `size`.
template <class Body>
static inline void in_ranges(const ArenaState& at, int64_t count, int64_t size, Body body) {
    in_parts(at, (count + size - 1) / size, [&](int64_t k, const ArenaState& memory) {
        body(k * size, (k + 1) * size < count ? (k + 1) * size : count, memory);
    });
}

// The bytes that `layout(arena)` takes.
template <class Layout>
static inline int64_t bytes_taken(Layout layout) {
    Arena counting(ArenaState{nullptr, 64, INT64_MAX, 0, false});
    layout(counting);
    return static_cast<int64_t>(counting.next) - 64;
}

}  // namespace
}  // namespace tsm
