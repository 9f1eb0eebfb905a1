// Gram matrices of mode-n unfoldings: one block an item and one read up to 64 x 64, else a block for every 64 x 64 tile
// on or above the diagonal.
#include "cuda/parts/multiply.cuh"

namespace tsm::cuda {
namespace {

// Block (item, tile): a 64 x 64 tile of G and its mirror image. Fibres are rows of depth; entries along them i and j.
__global__ void __launch_bounds__(kTileThreads) gram_tile_kernel(const __grid_constant__ Fibres f, int64_t batch_stride,
                                                                 bool center, int tiles, Output out, const bool* skip) {
    const int64_t per_item = int64_t{tiles} * (tiles + 1) / 2, item = blockIdx.x / per_item;
    if (skip && skip[item]) return;
    int row = 0, column = static_cast<int>(blockIdx.x % per_item);
    while (column >= tiles - row) column -= tiles - row++;
    column += row;
    const void* data = item_data(f.data, f.dtype, item * batch_stride);
    double* shared = reinterpret_cast<double*>(shared_memory());
    const auto entry = [&](int64_t k, int64_t i) {
        if (i >= f.n) return 0.0;
        const int64_t start = fibre_offset(f, k);
        const double x = read(data, f.dtype, start + i * f.step);
        return center ? x - read(data, f.dtype, start) : x;
    };
    Tile tile;
    multiply_tile(
        tile, f.count, f.step != 1, [&](int64_t k, int i) { return entry(k, row * kTile + i); }, f.step != 1,
        [&](int64_t k, int j) { return entry(k, column * kTile + j); }, shared);
    tile.each([&](int i, int j, double x) {
        const int64_t gi = row * kTile + i, gj = column * kTile + j;
        if (gi >= f.n || gj >= f.n || gi > gj) return;
        write(out, (item * f.n + gi) * f.n + gj, x);
        write(out, (item * f.n + gj) * f.n + gi, x);
    });
}

// Block b: G of item b becomes J G J, J = I - 1 1^T / n. Shared: column means [n]
__global__ void __launch_bounds__(256) center_kernel(int n, Output out, const bool* skip) {
    const int64_t item = blockIdx.x;
    if (skip && skip[item]) return;
    double* scratch = reinterpret_cast<double*>(shared_memory());
    double* means = scratch + kBlockScratch;
    const Block block{scratch};
    const auto at = [&](int64_t i, int64_t j) {
        const int64_t offset = (item * n + i) * n + j;
        return out.wide ? static_cast<const double*>(out.data)[offset]
                        : static_cast<double>(static_cast<const float*>(out.data)[offset]);
    };
    double total = 0;
    for (int j = block.rank(); j < n; j += block.size()) {
        double sum = 0;
        for (int i = 0; i < n; ++i) sum += at(i, j);
        means[j] = sum / n;
        total += sum / n;
    }
    total = block.sum(total) / n;
    for (int64_t k = block.rank(); k < int64_t{n} * n; k += block.size()) {
        const int64_t i = k / n, j = k % n;
        write(out, item * n * n + k, at(i, j) + (total - means[i] - means[j]));
    }
}

}  // namespace

void mode_gram(const TensorBatch& x, int mode, bool center, const Output& out, const bool* skip, void* stream) {
    const Fibres f = fibres_of(x.first, mode);
    if (f.n <= kSmall) {
        mode_gram_small(x, mode, center, out, skip, stream);
        return;
    }
    const int tiles = static_cast<int>((f.n + kTile - 1) / kTile);
    const int64_t blocks = x.batch * (int64_t{tiles} * (tiles + 1) / 2);
    launch("gram_tile_kernel", gram_tile_kernel, blocks, kTileThreads, kTileBytes, stream, f, x.batch_stride, center,
           tiles, out, skip);
    if (center)
        launch("center_kernel", center_kernel, x.batch, 256, (kBlockScratch + f.n) * 8, stream, static_cast<int>(f.n),
               out, skip);
}

}  // namespace tsm::cuda
