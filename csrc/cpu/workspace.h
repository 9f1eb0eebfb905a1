// The memory that one thread works in during one call: blocks that are added as they are needed, so that nothing has to
// say beforehand how much it will take. Handed out by Arena (arena.h), front to back.
#pragma once
#include <cstdint>

namespace tsm {

class Workspace;

// Where an arena stands. Copies of it are scopes: what a copy hands out is free again once the original goes on.
struct ArenaState {
    Workspace* memory;  // null: nothing is handed out, bytes are counted
    uintptr_t next, end;
    int block;        // of the workspace, the one that `next` and `end` lie in
    bool guarded;     // every piece is watched, see watch()
    int threads = 1;  // that the work on one item may take
};

// Calls body(what, part, memory) for parts [0, count), on the threads that `at` may take; `memory` is what is left
// there, or on another thread a workspace of its own.
void in_parts(const ArenaState& at, int64_t count, void (*body)(void*, int64_t, const ArenaState&), void* what);

// Moves to the block after this one, of `bytes` at least; what stood in it belonged to scopes that have ended.
void next_block(ArenaState& at, int64_t bytes);

// Guards: behind every piece of memory kRedZone bytes that nobody may write, and fresh pieces full of NaN (bytes 255),
// so that reading before writing shows. A sanitizer sees any access to a red zone, otherwise what is left in it is
// looked at when its scope has ended; a red zone written to ends the call with an error.
constexpr int64_t kRedZone = 128;
void watch(const ArenaState& at, uintptr_t piece, int64_t bytes);

// Whether later calls are guarded: always in sanitizer builds, otherwise by this switch (for tests).
void guard_workspaces(bool on);

// A thread's workspace; freed blocks are kept for later calls.
class Workspace {
public:
    Workspace();
    ~Workspace();
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;
    ArenaState start();
    // Looks at every red zone that is left; throws where one was written to.
    void check();

private:
    friend void next_block(ArenaState&, int64_t);
    friend void watch(const ArenaState&, uintptr_t, int64_t);
    struct Impl;
    Impl* impl_;
};

}  // namespace tsm
