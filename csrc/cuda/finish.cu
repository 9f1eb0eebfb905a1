// Maps resized (bilinear, corners not aligned) and normalised by one block an item: one pass that looks for the
// extremes, and one that writes.
#include "cuda/parts/launch.cuh"
#include "tap.h"

namespace tsm::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kWideRows = 32 * 1024;  // bytes of shared memory for rows made wide, which leave seven blocks room

// A map and its enlargement. `wide`: its rows in shared memory, resized across already, [height, columns]; or null,
// where there is nothing to resize, or no room.
template <class T>
struct Resized {
    const T* map;
    T* wide;
    int height, width, rows, columns;
    bool resize;

    __device__ __forceinline__ T across(const T* row, const Tap& at) const {
        return row[at.first] + (row[at.second] - row[at.first]) * static_cast<T>(at.weight);
    }

    __device__ __forceinline__ void widen() const {
        for (int y = warp_of_thread(); y < height; y += kThreads / 32)
            for (int x = lane_of_thread(); x < columns; x += 32)
                wide[y * columns + x] = across(map + y * width, tap(x, width, columns));
    }

    // visit(offset, value) for every entry of the result, a warp a row
    template <class Visit>
    __device__ __forceinline__ void each(Visit visit) const {
        for (int y = warp_of_thread(); y < rows; y += kThreads / 32) {
            const Tap down = tap(y, height, rows);
            const T t = static_cast<T>(down.weight);
            const int64_t first = static_cast<int64_t>(y) * columns;
            if (!resize) {
                for (int x = lane_of_thread(); x < columns; x += 32) visit(first + x, map[y * width + x]);
            } else if (wide != nullptr) {
                const T *upper = in_shared(wide) + down.first * columns,
                        *lower = in_shared(wide) + down.second * columns;
                for (int x = lane_of_thread(); x < columns; x += 32)
                    visit(first + x, upper[x] + (lower[x] - upper[x]) * t);
            } else {
                const T *upper = map + down.first * width, *lower = map + down.second * width;
                for (int x = lane_of_thread(); x < columns; x += 32) {
                    const Tap at = tap(x, width, columns);
                    const T a = across(upper, at);
                    visit(first + x, a + (across(lower, at) - a) * t);
                }
            }
        }
    }
};

// Block b: map b.
template <class T>
__global__ void __launch_bounds__(kThreads) finish_kernel(const T* maps, int height, int width, int rows, int columns,
                                                          bool widens, bool normalize, T noise, T* out) {
    const int64_t item = blockIdx.x;
    double* scratch = reinterpret_cast<double*>(shared_memory());
    const Block block{scratch};
    const bool resize = height != rows || width != columns;
    T* wide = widens ? reinterpret_cast<T*>(scratch + kBlockScratch) : nullptr;
    const Resized<T> resized{maps + item * height * width, wide, height, width, rows, columns, resize};
    T* own = out + item * rows * columns;
    if (widens) {
        resized.widen();
        block.sync();
    }
    if (!normalize) {
        resized.each([&](int64_t at, T x) { own[at] = x; });
        return;
    }
    T low = static_cast<T>(__longlong_as_double(0x7ff0000000000000LL)), high = -low;
    bool odd = false;
    resized.each([&](int64_t, T x) {
        low = x < low ? x : low;
        high = x > high ? x : high;
        odd |= x != x;
    });
    const T lowest = static_cast<T>(-block.max(-double{low})), highest = static_cast<T>(block.max(double{high}));
    const bool is_nan = block.max(odd ? 1.0 : 0.0) > 0;
    double largest = fmax(static_cast<double>(highest), -static_cast<double>(lowest));
    for (int i = block.rank(); i < height * width; i += block.size())
        largest = fmax(largest, fabs(double{resized.map[i]}));
    largest = block.max(largest);
    const T spread = highest - lowest;
    const bool constant = spread <= noise * static_cast<T>(largest);
    resized.each([&](int64_t at, T x) {
        own[at] = is_nan ? static_cast<T>(not_a_number()) : constant ? T(0) : (x - lowest) / spread;
    });
}

template <class T>
void run(const void* maps, int64_t batch, int height, int width, int rows, int columns, bool normalize, double noise,
         void* out, void* stream) {
    const int64_t bytes = static_cast<int64_t>(height) * columns * sizeof(T);
    const bool widens = (height != rows || width != columns) && bytes <= kWideRows;
    launch(sizeof(T) == 8 ? "finish_kernel<double>" : "finish_kernel<float>", finish_kernel<T>, batch, kThreads,
           kBlockScratch * 8 + (widens ? bytes : 0), stream, static_cast<const T*>(maps), height, width, rows, columns,
           widens, normalize, static_cast<T>(noise), static_cast<T*>(out));
}

}  // namespace

void finish(const void* maps, int64_t batch, int height, int width, int rows, int columns, bool normalize, double noise,
            const Output& out, void* stream) {
    (out.wide ? run<double> : run<float>)(maps, batch, height, width, rows, columns, normalize, noise, out.data,
                                          stream);
}

}  // namespace tsm::cuda
