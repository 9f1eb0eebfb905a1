// Threads over the batch, and the workspace each of them owns.
#pragma once
#include <cstdint>
#include <functional>

#include "cpu/workspace.h"

namespace tsm {

// Calls body(first, last, memory) for chunks of [0, count), on at most `threads` threads (the caller is one of them),
// each with a workspace of its own, empty for every chunk, and its share of the threads where there are fewer items. A
// chunk has at most `group` items, and every thread gets as many chunks as the others.
// `work` is about how many multiply-adds of floats an item takes as long as: no thread is woken for few of them.
// Threads sleep between calls; a process may fork at any time, and its child makes its own. An exception of the body or
// of the allocation is thrown again in the caller.
void parallel_chunks(int64_t count, int64_t group, double work, int threads,
                     const std::function<void(int64_t, int64_t, const ArenaState&)>& body);

// Whether later calls share even the least work (for tests).
void share_all_work(bool on);

}  // namespace tsm
