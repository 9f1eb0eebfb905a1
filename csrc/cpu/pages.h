// Memory that is about to be filled.
#pragma once
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace tsm {

// Asks for the whole 2 MB pages inside fresh memory to come as such. A page fault every 4 kB costs more than the
// decomposition that fills it. Without such pages, or on another system, nothing changes.
inline void prefer_large_pages([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    constexpr uintptr_t kPage = uintptr_t{2} << 20;
    const uintptr_t start = reinterpret_cast<uintptr_t>(data), first = (start + kPage - 1) / kPage * kPage;
    const uintptr_t last = (start + static_cast<uintptr_t>(bytes)) / kPage * kPage;
    if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

}  // namespace tsm
