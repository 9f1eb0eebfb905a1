// Maps resized (bilinear, corners not aligned) and normalised by one block an item: one pass that looks for the
// extremes, and one that writes.
#include "cuda/parts/launch.cuh"
#include "tap.h"

namespace tsm::cuda {
namespace {

constexpr int kThreads = 256;

template <class T>
struct Resized {
    const T* map;
    int height, width, rows, columns;
    bool resize;

    // visit(offset, value) for every entry of the result, a warp a row
    template <class Visit>
    __device__ __forceinline__ void each(Visit visit) const {
        for (int y = warp_of_thread(); y < rows; y += kThreads / 32) {
            const Tap down = tap(y, height, rows);
            const T *upper = map + down.first * width, *lower = map + down.second * width;
            const T t = static_cast<T>(down.weight);
            for (int x = lane_of_thread(); x < columns; x += 32) {
                const int64_t offset = static_cast<int64_t>(y) * columns + x;
                if (!resize) {
                    visit(offset, upper[x]);
                    continue;
                }
                const Tap across = tap(x, width, columns);
                const T u = static_cast<T>(across.weight);
                const T a = upper[across.first] + (upper[across.second] - upper[across.first]) * u;
                const T b = lower[across.first] + (lower[across.second] - lower[across.first]) * u;
                visit(offset, a + (b - a) * t);
            }
        }
    }
};

// Block b: map b.
template <class T>
__global__ void __launch_bounds__(kThreads)
    finish_kernel(const T* maps, int height, int width, int rows, int columns, bool normalize, T noise, T* out) {
    const int64_t item = blockIdx.x;
    const Block block{reinterpret_cast<double*>(shared_memory())};
    const bool resize = height != rows || width != columns;
    const Resized<T> resized{maps + item * height * width, height, width, rows, columns, resize};
    T* own = out + item * rows * columns;
    if (!normalize) {
        resized.each([&](int64_t at, T x) { own[at] = x; });
        return;
    }
    double low = __longlong_as_double(0x7ff0000000000000LL), high = -low, odd = 0;
    resized.each([&](int64_t, T x) {
        low = x < low ? x : low;
        high = x > high ? x : high;
        odd = x == x ? odd : 1.0;
    });
    const T lowest = static_cast<T>(-block.max(-low)), highest = static_cast<T>(block.max(high));
    const bool is_nan = block.max(odd) > 0;
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
    launch(sizeof(T) == 8 ? "finish_kernel<double>" : "finish_kernel<float>", finish_kernel<T>, batch, kThreads,
           kBlockScratch * 8, stream, static_cast<const T*>(maps), height, width, rows, columns, normalize,
           static_cast<T>(noise), static_cast<T*>(out));
}

}  // namespace

void finish(const void* maps, int64_t batch, int height, int width, int rows, int columns, bool normalize, double noise,
            const Output& out, void* stream) {
    (out.wide ? run<double> : run<float>)(maps, batch, height, width, rows, columns, normalize, noise, out.data,
                                          stream);
}

}  // namespace tsm::cuda
