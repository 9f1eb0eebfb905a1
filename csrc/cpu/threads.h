// Threads over the batch, and the workspace each of them owns.
#pragma once
#include <cstdint>
#include <functional>

#include "cpu/workspace.h"

namespace tsm {

// Calls body(first, last, memory) for chunks of [0, count), on at most `threads` threads (the caller is one of them),
// each with a workspace of its own, empty for every chunk, and its share of the threads where there are fewer chunks.
// Threads work for one call only, so a process may fork at any time. An exception of the body or of the allocation is
// thrown again in the caller.
void parallel_chunks(int64_t count, int64_t chunk, int threads,
                     const std::function<void(int64_t, int64_t, const ArenaState&)>& body);

// Items per chunk: at most `group`, and such that every thread gets as many chunks as the others.
int64_t balanced_chunk(int64_t count, int64_t group, int threads);

}  // namespace tsm
