// Saliency maps from eigenpairs: the combination, and the sign of a single map.
#include "cuda/parts/features.cuh"
#include "cuda/parts/multiply.cuh"

namespace tsm::cuda {
namespace {

constexpr int kThreads = 256;

// The leading one of a block's numbers, of which every thread sees its own in order.
struct Extreme {
    double entry = 0, at = 0;
    __device__ __forceinline__ void see(double x, int64_t i) {
        const bool larger = fabs(x) > fabs(entry);
        entry = larger ? x : entry;
        at = larger ? static_cast<double>(i) : at;
    }
    __device__ double of(const Block& block) const {
        const double most = block.max(fabs(entry)), first = block.max(fabs(entry) == most ? -at : -1e300);
        return block.max(fabs(entry) == most && -at == first ? entry : -1e300);
    }
};

// Block b: the sign of map b, and its positive part where asked.
__global__ void __launch_bounds__(kThreads)
    sign_kernel(Features features, bool center, Sign sign, bool relu, Output maps) {
    const int64_t item = blockIdx.x, s = features.positions;
    const Features f = features.item(item);
    const Block block{reinterpret_cast<double*>(shared_memory())};
    const auto map = [&](int64_t p) {
        return maps.wide ? static_cast<const double*>(maps.data)[item * s + p]
                         : static_cast<double>(static_cast<const float*>(maps.data)[item * s + p]);
    };
    Extreme of_map, of_u;
    double total = 0, sum = 0;
    for (int64_t p = block.rank(); p < s; p += block.size()) {
        const double x = map(p);
        of_map.see(x, p);
        sum += x;
    }
    double response = of_map.of(block);
    const double largest = fabs(response);
    sum = block.sum(sum) / largest;
    if ((sign == Sign::u || sign == Sign::sum) && largest > 0) {  // u_1 ~ F v_1, v_1 ~ map
        for (int64_t c = warp_of_thread(); c < f.channels; c += block.size() / 32) {
            const double shift = f.at(c, 0);
            double dot = 0, rest = 0;
            for (int64_t p = lane_of_thread(); p < s; p += 32) {
                const double x = f.at(c, p) - shift;
                dot += x * (map(p) / largest);
                rest += x;
            }
            dot = warp_sum(dot);
            rest = warp_sum(rest);
            const double u = center ? dot - rest / static_cast<double>(s) * sum : dot + shift * sum;
            of_u.see(u, c);
            if (lane_of_thread() == 0) total += u * (rest + shift * static_cast<double>(s));
        }
        response = sign == Sign::u ? of_u.of(block) : block.sum(total);
    }
    const double direction = response < 0 ? -1 : 1;
    block.sync();
    for (int64_t p = block.rank(); p < s; p += block.size()) {
        const double x = direction * map(p);
        write(maps, item * s + p, relu && x <= 0 ? 0.0 : x);  // NaN stays
    }
}

__device__ __forceinline__ double weight(double sigma, int power, const double* decides, int64_t j) {
    const double size = power == 2 ? sigma * sigma : power == 1 ? sigma : 1.0;
    return decides && decides[j] < 0 ? -size : size;
}

// Block b: map b, a warp a position.
__global__ void __launch_bounds__(kThreads)
    combine_positions_kernel(const double* values, const double* vectors, const double* signs, int64_t positions, int n,
                             Combine how, Output maps, bool* finite, const bool* skip) {
    const int64_t item = blockIdx.x;
    if (skip && skip[item]) return;
    const double* sigma = values + item * n;
    const double* decides = signs ? signs + item * n : nullptr;
    for (int64_t p = warp_of_thread(); p < positions; p += kThreads / 32) {
        const double* v = vectors + (item * positions + p) * n;
        double sum = 0;
        if (how == Combine::leading) {
            sum = sigma[0] * v[0];
        } else {
            for (int j = lane_of_thread(); j < n; j += 32) {
                const double w = weight(sigma[j], 2, decides, j);
                sum += how == Combine::absolute_sum ? w * fabs(v[j]) : w * v[j];
            }
            sum = warp_sum(sum);
            if (how != Combine::uncut_sum) sum = fabs(sum);
        }
        if (lane_of_thread() == 0) write(maps, item * positions + p, sum);
    }
    if (threadIdx.x == 0) finite[item] = is_finite(sigma[0]);
}

// Block b: map b = F^T z, z = sum_j w_j u_j. Shared: z [C]
__global__ void __launch_bounds__(kThreads)
    project_kernel(Features features, const double* values, const double* vectors, const double* signs, int n,
                   Combine how, Output maps, bool* finite, const bool* skip) {
    const int64_t item = blockIdx.x;
    if (skip && skip[item]) return;
    const Features f = features.item(item);
    const double* sigma = values + item * n;
    const double* decides = signs ? signs + item * n : nullptr;
    double* z = reinterpret_cast<double*>(shared_memory());
    for (int64_t c = warp_of_thread(); c < f.channels; c += kThreads / 32) {
        const double* u = vectors + (item * f.channels + c) * n;
        double sum = 0;
        for (int j = lane_of_thread(); j < (how == Combine::leading ? 1 : n); j += 32)
            sum += weight(sigma[j], how == Combine::leading ? 0 : 1, decides, j) * u[j];
        sum = warp_sum(sum);
        if (lane_of_thread() == 0) z[c] = sum;
    }
    __syncthreads();
    for (int64_t p = threadIdx.x; p < f.positions; p += kThreads) {
        double sum = 0;
        for (int64_t c = 0; c < f.channels; ++c) sum += f.at(c, p) * z[c];
        write(maps, item * f.positions + p, how == Combine::signed_sum ? fabs(sum) : sum);
    }
    if (threadIdx.x == 0) finite[item] = is_finite(sigma[0]);
}

// Block (item, tile of positions): map = sum_j sigma_j |F^T u_j|.
__global__ void __launch_bounds__(kTileThreads)
    project_absolute_kernel(Features features, const double* values, const double* vectors, int n, int tiles,
                            Output maps, bool* finite, const bool* skip) {
    const int64_t item = blockIdx.x / tiles, first = blockIdx.x % tiles * int64_t{kTile};
    if (skip && skip[item]) return;
    const Features f = features.item(item);
    const double* sigma = values + item * n;
    const double* u = vectors + item * f.channels * n;
    double* shared = reinterpret_cast<double*>(shared_memory());
    double sums[4] = {0, 0, 0, 0};  // of rows lane / 4 + 8 i of this warp's 32
    for (int column = 0; column < n; column += kTile) {
        Tile tile;
        multiply_tile(
            tile, f.channels, f.step != 1 && f.channel_step == 1,
            [&](int64_t k, int i) { return first + i < f.positions ? f.at(k, first + i) : 0.0; }, false,
            [&](int64_t k, int j) { return column + j < n ? u[k * n + column + j] : 0.0; }, shared);
#pragma unroll
        for (int r = 0; r < 2; ++r)
#pragma unroll
            for (int s = 0; s < 4; ++s)
#pragma unroll
                for (int q = 0; q < 4; ++q) {
                    const int j = column + warp_of_thread() % 2 * 32 + 8 * s + lane_of_thread() % 4 * 2 + q % 2;
                    if (j < n) sums[2 * r + q / 2] += sigma[j] * fabs(tile.c[r][s][q]);
                }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        sums[i] += __shfl_xor_sync(kAllLanes, sums[i], 1);
        sums[i] += __shfl_xor_sync(kAllLanes, sums[i], 2);
        if (lane_of_thread() % 4 == 0)
            shared[warp_of_thread() % 2 * kTile + warp_of_thread() / 2 * 32 + 8 * i + lane_of_thread() / 4] = sums[i];
    }
    __syncthreads();
    const int64_t p = first + threadIdx.x;
    if (threadIdx.x < kTile && p < f.positions)
        write(maps, item * f.positions + p, shared[threadIdx.x] + shared[kTile + threadIdx.x]);
    if (first == 0 && threadIdx.x == 0) finite[item] = is_finite(sigma[0]);
}

}  // namespace

void sign_single(const TensorBatch& x, bool center, Sign sign, bool relu, const Output& maps, void* stream) {
    launch("sign_kernel", sign_kernel, x.batch, kThreads, kBlockScratch * 8, stream, features_of(x), center, sign, relu,
           maps);
}

void combine_positions(const double* values, const double* vectors, const double* signs, int64_t batch,
                       int64_t positions, int n, Combine how, const Output& maps, bool* finite, const bool* skip,
                       void* stream) {
    launch("combine_positions_kernel", combine_positions_kernel, batch, kThreads, 0, stream, values, vectors, signs,
           positions, n, how, maps, finite, skip);
}

void combine_channels(const TensorBatch& x, const double* values, const double* vectors, const double* signs, int n,
                      Combine how, const Output& maps, bool* finite, const bool* skip, void* stream) {
    const Features f = features_of(x);
    if (how != Combine::absolute_sum) {
        launch("project_kernel", project_kernel, x.batch, kThreads, f.channels * 8, stream, f, values, vectors, signs,
               n, how, maps, finite, skip);
        return;
    }
    const int tiles = static_cast<int>((f.positions + kTile - 1) / kTile);
    launch("project_absolute_kernel", project_absolute_kernel, x.batch * tiles, kTileThreads, kTileBytes, stream, f,
           values, vectors, n, tiles, maps, finite, skip);
}

}  // namespace tsm::cuda
