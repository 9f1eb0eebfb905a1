// Threads over the batch, and the workspace each of them owns.
#pragma once
#include <cstdint>
#include <functional>

namespace tsm {

// Calls body(first, last, workspace) for chunks of [0, count), on at most `threads` threads (the caller is one of
// them). Each thread gets `bytes` of 64-byte aligned workspace. Threads work for one call only, so a process may fork
// at any time. An exception of the body or of the allocation is thrown again in the caller.
void parallel_chunks(int64_t count, int64_t chunk, int threads, int64_t bytes,
                     const std::function<void(int64_t, int64_t, char*)>& body);

// Items per chunk: at most `group`, and such that every thread gets as many chunks as the others.
int64_t balanced_chunk(int64_t count, int64_t group, int threads);

}  // namespace tsm
