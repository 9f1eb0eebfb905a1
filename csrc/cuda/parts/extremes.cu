// Signs of singular vectors: the entry of largest magnitude of every column of F V, the first one on ties, by a product
// on the matrix units that is not written.
#include "cuda/parts/features.cuh"
#include "cuda/parts/gram.cuh"
#include "cuda/parts/multiply.cuh"

namespace tsm::cuda {
namespace {

// An entry of a column, and its row.
struct Leader {
    double entry, row;

    __device__ __forceinline__ void see(const Leader& other) {
        const double size = fabs(entry), others = fabs(other.entry);
        if (others > size || (others == size && other.row < row)) *this = other;
    }
    // Of the lanes that hold entries of the same column of a fragment: those that are equal modulo 4.
    __device__ __forceinline__ Leader of_column() const {
        Leader leader = *this;
        for (int step = 4; step < 32; step *= 2)
            leader.see({__shfl_xor_sync(kAllLanes, leader.entry, step), __shfl_xor_sync(kAllLanes, leader.row, step)});
        return leader;
    }
};

// ---- up to 64 positions: F V from rows that pass through shared memory, 16 at a time by each warp ----
constexpr int kRows = 16;

// Block b: item b. vectors: [B, n, columns], columns <= 8 NT
template <int NT, class In>
__global__ void __launch_bounds__(32 * kGramWarps, 3)
    extremes_small_kernel(const __grid_constant__ Rows rows, int64_t batch_stride, bool center, const double* vectors,
                          int columns, double* out, const bool* skip) {
    constexpr int kWidth = kPitch<NT>;
    const int64_t item = blockIdx.x;
    if (skip && skip[item]) return;
    const int n = static_cast<int>(rows.fibres.n), thread = static_cast<int>(threadIdx.x), lane = lane_of_thread(),
              depth = (n + 3) / 4 * 4;
    const bool bfloat = rows.fibres.dtype == DType::bf16;
    const void* data = item_data(rows.fibres.data, rows.fibres.dtype, item * batch_stride);
    double* v = reinterpret_cast<double*>(shared_memory());  // [depth, kPitch], zeros beyond V
    const int64_t bytes = chunk_bytes(rows.copy, sizeof(In), n, kRows);
    const bool turned = rows.copy == Copy::columns;
    const int row = turned ? 1 : n, step = turned ? column_pitch<In>(kRows) : 1;  // to the next row, the next column
    char* own = reinterpret_cast<char*>(v + depth * kWidth) + warp_of_thread() * 2 * bytes;
    int64_t first = int64_t{warp_of_thread()} * kRows;
    fetch_chunk(rows, data, first, kRows, own, Warp{});
    for (int at = thread; at < depth * 8 * NT; at += 32 * kGramWarps) {
        const int k = at / (8 * NT), j = at % (8 * NT);
        v[k * kWidth + j] = k < n && j < columns ? vectors[(item * n + k) * columns + j] : 0.0;
    }
    __syncthreads();
    // Of columns 8 s + 2 (lane % 4) + {0, 1}, the leading entry in rows that are lane / 4 modulo 8.
    double entry[NT][2];
    int place[NT][2];
#pragma unroll
    for (int s = 0; s < NT; ++s)
        for (int q = 0; q < 2; ++q) entry[s][q] = place[s][q] = 0;
    for (int turn = 0; first < rows.fibres.count; first += kRows * kGramWarps, turn ^= 1) {
        fetch_chunk(rows, data, first + kRows * kGramWarps, kRows, own + (turn ^ 1) * bytes, Warp{});
        wait_for_all_but_newest();
        __syncwarp(kAllLanes);
        const In* upper = reinterpret_cast<const In*>(own + turn * bytes) + lane / 4 * row;
        const In* lower = upper + 8 * row;
        const double shift[2] = {center ? widen(upper[0], bfloat) : 0.0, center ? widen(lower[0], bfloat) : 0.0};
        double c[NT][4];
#pragma unroll
        for (int s = 0; s < NT; ++s)
#pragma unroll
            for (int q = 0; q < 4; ++q) c[s][q] = 0;
#pragma unroll 2
        for (int k = 0; k < depth; k += 4) {
            const int p = k + lane % 4;
            const double a0 = p < n ? widen(upper[p * step], bfloat) - shift[0] : 0.0,
                         a1 = p < n ? widen(lower[p * step], bfloat) - shift[1] : 0.0;
            const double* b = v + p * kWidth + lane / 4;
#pragma unroll
            for (int s = 0; s < NT; ++s) multiply_add(c[s], a0, a1, b[8 * s]);
        }
        __syncwarp(kAllLanes);
#pragma unroll
        for (int s = 0; s < NT; ++s)
#pragma unroll
            for (int q = 0; q < 4; ++q) {
                const bool larger = fabs(c[s][q]) > fabs(entry[s][q % 2]);
                entry[s][q % 2] = larger ? c[s][q] : entry[s][q % 2];
                place[s][q % 2] = larger ? static_cast<int>(first) + q / 2 * 8 + lane / 4 : place[s][q % 2];
            }
    }
    __syncthreads();    // v is done with
    double* found = v;  // [2, kGramWarps, 8 NT]: entries, rows
#pragma unroll
    for (int s = 0; s < NT; ++s)
#pragma unroll
        for (int q = 0; q < 2; ++q) {
            const Leader leader = Leader{entry[s][q], static_cast<double>(place[s][q])}.of_column();
            const int at = warp_of_thread() * 8 * NT + 8 * s + lane % 4 * 2 + q;
            if (lane / 4 == 0) {
                found[at] = leader.entry;
                found[kGramWarps * 8 * NT + at] = leader.row;
            }
        }
    __syncthreads();
    if (thread >= columns) return;
    Leader leader{0, 0};
    for (int w = 0; w < kGramWarps; ++w)
        leader.see({found[w * 8 * NT + thread], found[(kGramWarps + w) * 8 * NT + thread]});
    out[item * columns + thread] = leader.entry;
}

struct LaunchSmall {
    const TensorBatch& x;
    Rows rows;
    bool center;
    const double* vectors;
    int columns;
    double* out;
    const bool* skip;
    void* stream;
    template <int NT, class In>
    void run() const {
        const int64_t n = rows.fibres.n, found = 2 * kGramWarps * 8 * NT * 8;
        Rows given = rows;
        const auto used_by = [&](Copy copy) {
            return (n + 3) / 4 * 4 * kPitch<NT> * 8 + 2 * kGramWarps * chunk_bytes(copy, sizeof(In), n, kRows);
        };
        if (given.copy == Copy::columns && used_by(given.copy) > shared_limit()) given.copy = Copy::entries;
        const int64_t used = used_by(given.copy);
        static const std::string name = "extremes_small_kernel<" + std::to_string(NT) + ", " + type_name(In{}) + ">";
        launch(name, extremes_small_kernel<NT, In>, x.batch, 32 * kGramWarps, used > found ? used : found, stream,
               given, x.batch_stride, center, vectors, columns, out, skip);
    }
};

// ---- any size: tiles of the product ----

// The leading entries of this thread's 8 columns of a tile, over all rows that it has seen.
struct Extremes {
    double entry[8];
    int place[8];  // rows of this thread that came before
    __device__ __forceinline__ void see(const Tile& tile, int before) {
#pragma unroll
        for (int s = 0; s < 4; ++s)
#pragma unroll
            for (int r = 0; r < 2; ++r)
#pragma unroll
                for (int q = 0; q < 4; ++q) {
                    const double x = tile.c[r][s][q];
                    const int j = 2 * s + q % 2;
                    const bool larger = fabs(x) > fabs(entry[j]);
                    entry[j] = larger ? x : entry[j];
                    place[j] = larger ? before + 2 * r + q / 2 : place[j];
                }
    }
    // shared: [2, 2, kTile]
    __device__ __forceinline__ void write_to(double* shared, double* out, int columns) const {
        const int lane = lane_of_thread(), warp = warp_of_thread(), thread = static_cast<int>(threadIdx.x);
        double* rows = shared + 2 * kTile;
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            const int in_tile = warp / 2 * 32 + (place[j] % 4) * 8 + lane / 4;
            const Leader leader = Leader{entry[j], static_cast<double>(place[j] / 4) * kTile + in_tile}.of_column();
            const int column = warp % 2 * 32 + j / 2 * 8 + lane % 4 * 2 + j % 2;
            if (lane / 4 == 0) {
                shared[warp / 2 * kTile + column] = leader.entry;
                rows[warp / 2 * kTile + column] = leader.row;
            }
        }
        __syncthreads();
        if (thread < columns) {
            Leader leader{shared[thread], rows[thread]};
            leader.see({shared[kTile + thread], rows[kTile + thread]});
            out[thread] = leader.entry;
        }
    }
};

// Block (item, tile of columns): rows of F (F^T where TRANSPOSED) 64 at a time.
template <bool TRANSPOSED>
__global__ void __launch_bounds__(kTileThreads) extremes_kernel(Features features, bool center, const double* vectors,
                                                                int n, int tiles, double* out, const bool* skip) {
    const int64_t item = blockIdx.x / tiles;
    const int first = static_cast<int>(blockIdx.x % tiles) * kTile;
    if (skip && skip[item]) return;
    const Features f = features.item(item);
    const int64_t rows = TRANSPOSED ? f.positions : f.channels, depth = TRANSPOSED ? f.channels : f.positions;
    const bool down = f.step != 1 && f.channel_step == 1;  // neighbours in memory lie in neighbouring channels
    const double* v = vectors + item * depth * n;
    double* shared = reinterpret_cast<double*>(shared_memory());
    Extremes seen;
#pragma unroll
    for (int j = 0; j < 8; ++j) seen.entry[j] = seen.place[j] = 0;
    int before = 0;
    for (int64_t row = 0; row < rows; row += kTile) {
        Tile tile;
        multiply_tile(
            tile, depth, TRANSPOSED == down,
            [&](int64_t k, int i) {
                if (row + i >= rows) return 0.0;
                if (TRANSPOSED) return f.at(k, row + i);
                return f.at(row + i, k) - (center ? f.at(row + i, 0) : 0.0);
            },
            false, [&](int64_t k, int j) { return first + j < n ? v[k * n + first + j] : 0.0; }, shared);
        seen.see(tile, before);
        before += 4;
    }
    seen.write_to(shared, out + item * n + first, n - first < kTile ? n - first : kTile);
}

}  // namespace

void extremes(const TensorBatch& x, bool transposed, bool center, const double* vectors, int n, double* out,
              const bool* skip, void* stream) {
    if (!transposed && x.first.shape[1] <= kSmall && n <= x.first.shape[1]) {
        const Rows rows = rows_of(x, 1, kRows);
        for_size_and_dtype(rows.fibres.n, rows.fibres.dtype,
                           LaunchSmall{x, rows, center, vectors, n, out, skip, stream});
        return;
    }
    const Features f = features_of(x);
    const int tiles = (n + kTile - 1) / kTile;
    launch(transposed ? "extremes_kernel<true>" : "extremes_kernel<false>",
           transposed ? extremes_kernel<true> : extremes_kernel<false>, x.batch * tiles, kTileThreads, kTileBytes,
           stream, f, center, vectors, n, tiles, out, skip);
}

}  // namespace tsm::cuda
