// Races between CUDA threads, found by looking at every access. The kernels are compiled with the compiler's
// instrumentation for ThreadSanitizer, whose calls end here and not in its library: that one knows OS threads, of which
// there is one, and remembers the last few accesses to a word; here barriers are what they are in CUDA, and nothing is
// forgotten. Two accesses to a byte by two threads of a launch, one of them writing, are a race unless
//   - a __syncthreads of their block lies between them, or
//   - they are of one warp, and a __syncwarp lies between them.
// Shuffles and products on the matrix units order no memory. Blocks of a launch are never ordered, launches always. A
// copy_async writes from its call to the wait for it: whatever touches the bytes in between, races with it.
#pragma once
#include <cstddef>
#include <cstdint>

namespace races {

#ifdef TSM_RACES

void start_launch();
// Throws where there were races.
void finish_launch();
// The block's shared memory is its own: what others did there is forgotten.
void start_block(const void* shared, size_t bytes);
void block_barrier();
void warp_barrier(unsigned warp);
// From here to `leave` the thread runs; its stack is its own.
void enter(unsigned thread, const void* stack, size_t bytes);
void leave();
void start_copy(const void* to, const void* from, size_t bytes, const void* code);
void finish_copy(const void* to, const void* from, size_t bytes, const void* code);
#else

inline void start_launch() {}
inline void finish_launch() {}
inline void start_block(const void*, size_t) {}
inline void block_barrier() {}
inline void warp_barrier(unsigned) {}
inline void enter(unsigned, const void*, size_t) {}
inline void leave() {}
inline void start_copy(const void*, const void*, size_t, const void*) {}
inline void finish_copy(const void*, const void*, size_t, const void*) {}
#endif

}  // namespace races
