// One mode product X x_mode A^T of every item as a batched matrix product on the matrix units.
#include "cuda/parts/multiply.cuh"

namespace tsm::cuda {
namespace {

// Block (item, tile of fibres, tile of r): out[fibre, k] = sum_i x[fibre, i] a[i, k], written where mode's entry is k.
__global__ void __launch_bounds__(kTileThreads)
    contraction_kernel(const __grid_constant__ Fibres f, int64_t batch_stride, const double* factor, int64_t r,
                       int64_t inner, int64_t tiles, int64_t rank_tiles, Output out) {
    const int64_t item = blockIdx.x / (tiles * rank_tiles), tile_at = blockIdx.x % (tiles * rank_tiles);
    const int64_t first = tile_at / rank_tiles * kTile, column = tile_at % rank_tiles * kTile;
    const void* data = item_data(f.data, f.dtype, item * batch_stride);
    const double* a = factor + item * f.n * r;
    Tile tile;
    multiply_tile(
        tile, f.n, f.step == 1,
        [&](int64_t k, int i) {
            const int64_t fibre = first + i;
            return fibre < f.count ? read(data, f.dtype, fibre_offset(f, fibre) + k * f.step) : 0.0;
        },
        false, [&](int64_t k, int j) { return column + j < r ? a[k * r + column + j] : 0.0; },
        reinterpret_cast<double*>(shared_memory()));
    tile.each([&](int i, int j, double x) {
        const int64_t fibre = first + i, k = column + j;
        if (fibre >= f.count || k >= r) return;
        const int64_t outer = fibre / inner;  // fibres count over the modes before and behind this one
        write(out, ((item * (f.count / inner) + outer) * r + k) * inner + fibre - outer * inner, x);
    });
}

}  // namespace

void core_contraction(const TensorBatch& x, int mode, const double* factor, int64_t r, const Output& out,
                      void* stream) {
    const Fibres f = fibres_of(x.first, mode);
    int64_t inner = 1;
    for (int i = mode + 1; i < x.first.order; ++i) inner *= x.first.shape[i];
    const int64_t tiles = (f.count + kTile - 1) / kTile, rank_tiles = (r + kTile - 1) / kTile;
    launch("contraction_kernel", contraction_kernel, x.batch * tiles * rank_tiles, kTileThreads, kTileBytes, stream, f,
           x.batch_stride, factor, r, inner, tiles, rank_tiles, out);
}

}  // namespace tsm::cuda
