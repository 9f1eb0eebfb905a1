// The Gram matrix of up to 64 positions by one block, in one read of the features.
#pragma once
#include "cuda/parts/launch.cuh"

namespace tsm::cuda {

constexpr int kGramWarps = 4;
constexpr int kGramScratch = kSmall + 2;  // numbers of shared memory: means of columns and of all, or of reductions
static_assert(kGramScratch >= kBlockScratch && kGramScratch % 2 == 0);

// How chunks of rows come into shared memory: entry by entry, or by 16 bytes in the background. `rows`: they lie one
// after the other. `columns`: the entries of a column do, as channels that come last; a chunk stays so in shared
// memory.
enum class Copy { entries, rows, columns };

// Features of one item: `count` rows (channels) of `n` entries.
struct Rows {
    Fibres fibres;
    Copy copy;
};

// Fragments of 16 x 8 on and above the diagonal of a matrix of 8 NT: (I, J) with J >= 2 I.
template <int NT>
__host__ __device__ constexpr int fragments() {
    int count = 0;
    for (int i = 0; 2 * i < NT; ++i) count += NT - 2 * i;
    return count;
}

// Rows of a fragment lie kPitch apart: 8 NT + 4, so that its four rows are in different banks.
template <int NT>
constexpr int kPitch = 8 * NT + 4;

// How many rows a warp fetches at a time.
template <class In>
constexpr int kChunk = sizeof(In) == 8 ? 16 : 32;
__host__ __device__ __forceinline__ int chunk_rows(DType dtype) {
    return dtype == DType::f64 ? kChunk<double> : kChunk<float>;
}

// From a column of a chunk to the next, in entries: 16 bytes more, so that a fragment's lanes are in different banks.
template <class In>
__host__ __device__ constexpr int column_pitch(int chunk) {
    return chunk + 16 / static_cast<int>(sizeof(In));
}
__host__ __device__ __forceinline__ int64_t element_bytes(DType dtype) {
    return dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : 2;
}
__host__ __device__ __forceinline__ int64_t chunk_bytes(Copy copy, int64_t width, int64_t n, int chunk) {
    return n * (chunk * width + (copy == Copy::columns ? 16 : 0));
}

// A group of threads brings rows [first, first + chunk) of the item into `buffer`; rows beyond the last are zeros.
template <class Group>
__device__ __forceinline__ void fetch_columns(const Rows& rows, const void* data, int64_t first, int chunk,
                                              char* buffer, const Group& group) {
    const Fibres& f = rows.fibres;
    if (first < f.count) {
        const int width = static_cast<int>(element_bytes(f.dtype)), bytes = chunk * width, pieces = bytes / 16,
                  piece = group.rank() % pieces * 16;
        const bool inside = piece < (f.count - first) * width;
        const char* from = static_cast<const char*>(data) + first * width + piece;
        for (int column = group.rank() / pieces; column < f.n; column += group.size() / pieces) {
            char* to = buffer + column * (bytes + 16) + piece;
            if (inside)
                copy_async(to, from + column * f.step * width);
            else
                reinterpret_cast<double*>(to)[0] = reinterpret_cast<double*>(to)[1] = 0;
        }
    }
    commit_copies();
}

// The same by another way, rows after each other in `buffer`.
template <class Group>
__device__ void fetch_rows(const Rows& rows, const void* data, int64_t first, int chunk, char* buffer,
                           const Group& group) {
    const Fibres& f = rows.fibres;
    const int64_t width = element_bytes(f.dtype);
    const int rank = group.rank(), size = group.size();
    if (first < f.count) {
        const int64_t here = (f.count - first < chunk ? f.count - first : chunk) * f.n;  // elements
        if (rows.copy == Copy::rows && here == chunk * f.n) {
            const char* from = static_cast<const char*>(data) + first * f.n * width;
            for (int64_t at = int64_t{rank} * 16; at < here * width; at += size * 16)
                copy_async(buffer + at, from + at);
        } else {
            const int n = static_cast<int>(f.n);
            const auto bring = [&](int row, int column) {
                const int at = row * n + column;
                const bool inside = at < here;
                const int64_t offset = inside ? fibre_offset(f, first + row) + column * f.step : 0;
                if (width == 4)
                    reinterpret_cast<float*>(buffer)[at] = inside ? static_cast<const float*>(data)[offset] : 0;
                else if (width == 8)
                    reinterpret_cast<double*>(buffer)[at] = inside ? static_cast<const double*>(data)[offset] : 0;
                else
                    reinterpret_cast<uint16_t*>(buffer)[at] = inside ? static_cast<const uint16_t*>(data)[offset] : 0;
            };
            // Neighbours in memory are in the same row, or in the same column: one division a thread.
            const int line = f.step == 1 ? n : chunk, lines = f.step == 1 ? chunk : n, jump = size / line,
                      rest = size - jump * line;
            int across = rank / line, along = rank - across * line;
            while (across < lines) {
                bring(f.step == 1 ? across : along, f.step == 1 ? along : across);
                across += jump;
                along += rest;
                if (along >= line) {
                    along -= line;
                    ++across;
                }
            }
        }
    }
    commit_copies();
}

// acc += rows^T rows over the rows of one chunk, each less its first entry where `shifted`. Any four rows make a step:
// those a quarter of a chunk apart keep a fragment's lanes in different banks for odd n, of columns those together.
template <int NT, class In, bool COLUMNS>
__device__ __forceinline__ void add_chunk(double (&acc)[fragments<NT>()][4], const char* buffer, int n, bool shifted,
                                          bool bfloat) {
    constexpr int kQuarter = kChunk<In> / 4, kStep = COLUMNS ? column_pitch<In>(kChunk<In>) : 1;
    const int lane = lane_of_thread();
#pragma unroll 1
    for (int i = 0; i < kQuarter; ++i) {
        const In* row =
            reinterpret_cast<const In*>(buffer) + (COLUMNS ? 4 * i + lane % 4 : (i + kQuarter * (lane % 4)) * n);
        double x[NT + 1];
#pragma unroll
        for (int t = 0; t < NT; ++t) x[t] = 8 * t + lane / 4 < n ? widen(row[(8 * t + lane / 4) * kStep], bfloat) : 0.0;
        if (shifted) {
            const double first = widen(row[0], bfloat);
#pragma unroll
            for (int t = 0; t < NT; ++t) x[t] -= 8 * t + lane / 4 < n ? first : 0.0;
        }
        x[NT] = 0;
        int f = 0;
#pragma unroll
        for (int r = 0; 2 * r < NT; ++r)
#pragma unroll
            for (int s = 2 * r; s < NT; ++s) multiply_add(acc[f++], x[2 * r], x[2 * r + 1], x[s]);
    }
}

// This thread's entries of a fragment: visit(i, j, q)
template <class Visit>
__device__ __forceinline__ void each_entry(int r, int s, Visit visit) {
    const int lane = lane_of_thread();
#pragma unroll
    for (int q = 0; q < 4; ++q) visit(16 * r + 8 * (q / 2) + lane / 4, 8 * s + lane % 4 * 2 + q % 2, q);
}

// Either, as the rows can be copied.
template <class Group>
__device__ __forceinline__ void fetch_chunk(const Rows& rows, const void* data, int64_t first, int chunk, char* buffer,
                                            const Group& group) {
    if (rows.copy == Copy::columns)
        fetch_columns(rows, data, first, chunk, buffer, group);
    else
        fetch_rows(rows, data, first, chunk, buffer, group);
}

// Calls add(chunk) for every `chunk` rows of this warp, while the next ones come into its other buffer.
template <bool COLUMNS, class Add>
__device__ __forceinline__ void stream_rows(const Rows& rows, const void* data, int chunk, char* staging, Add add) {
    const int64_t stride = int64_t{kGramWarps} * chunk,
                  bytes = chunk_bytes(rows.copy, element_bytes(rows.fibres.dtype), rows.fibres.n, chunk);
    char* own = staging + warp_of_thread() * 2 * bytes;
    int64_t first = int64_t{warp_of_thread()} * chunk;
    const auto fetch = [&](int64_t at, char* buffer) {
        if constexpr (COLUMNS)
            fetch_columns(rows, data, at, chunk, buffer, Warp{});
        else
            fetch_rows(rows, data, at, chunk, buffer, Warp{});
    };
    fetch(first, own);
    for (int turn = 0; first < rows.fibres.count; first += stride, turn ^= 1) {
        fetch(first + stride, own + (turn ^ 1) * bytes);
        wait_for_all_but_newest();
        __syncwarp(kAllLanes);
        add(own + turn * bytes);
        __syncwarp(kAllLanes);
    }
}

template <int NT, class In, bool COLUMNS>
__device__ __forceinline__ void accumulate(double (&acc)[fragments<NT>()][4], const Rows& rows, const void* data,
                                           bool shifted, char* staging) {
    const int n = static_cast<int>(rows.fibres.n);
    const bool bfloat = rows.fibres.dtype == DType::bf16;
    // The chunk is no constant where it is fetched: that would cost registers.
    stream_rows<COLUMNS>(rows, data, chunk_rows(rows.fibres.dtype), staging,
                         [&](const char* at) { add_chunk<NT, In, COLUMNS>(acc, at, n, shifted, bfloat); });
}

// ---- 16 bits: products are exact in float, and so many of them are summed there before the sum goes to double ----
constexpr int kRows16 = 64;

// acc += rows^T rows over the kRows16 rows of a chunk, for the fragments from `BEGIN` on that registers have room for.
// Four rows at a time from each quarter of the chunk: odd n leaves the lanes in different banks.
template <int NT, bool BFLOAT, bool COLUMNS, int BEGIN = 0>
__device__ __forceinline__ void add_chunk16(double (&acc)[fragments<NT>()][4], const uint16_t* chunk, int n) {
    constexpr int kAll = fragments<NT>(), kHere = NT < 8 ? kAll : kAll / 4;
    const int lane = lane_of_thread();
    float sums[kHere][4] = {};
#pragma unroll 1
    for (int i = 0; i < kRows16 / 4; i += 4) {
        const uint16_t* row = COLUMNS
                                  ? chunk + i + kRows16 / 4 * (lane % 4) + lane / 4 * column_pitch<uint16_t>(kRows16)
                                  : chunk + (i + kRows16 / 4 * (lane % 4)) * n + lane / 4;
        uint32_t x[NT + 1][2];
#pragma unroll
        for (int t = 0; t < NT; ++t) {
            const bool inside = 8 * t + lane / 4 < n;
            if constexpr (COLUMNS) {
                const uint16_t* at = row + 8 * t * column_pitch<uint16_t>(kRows16);
                const uint64_t four = inside ? *reinterpret_cast<const uint64_t*>(at) : 0;
                x[t][0] = static_cast<uint32_t>(four);
                x[t][1] = static_cast<uint32_t>(four >> 32);
            } else {
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    const uint16_t* at = row + 2 * h * n + 8 * t;
                    x[t][h] = inside ? at[0] | static_cast<uint32_t>(at[n]) << 16 : 0;
                }
            }
        }
        x[NT][0] = x[NT][1] = 0;
        int f = -BEGIN;
#pragma unroll
        for (int r = 0; 2 * r < NT; ++r)
#pragma unroll
            for (int s = 2 * r; s < NT; ++s, ++f)
                if (f >= 0 && f < kHere)
                    multiply_add<BFLOAT>(sums[f], {x[2 * r][0], x[2 * r + 1][0], x[2 * r][1], x[2 * r + 1][1]}, x[s]);
    }
#pragma unroll
    for (int f = 0; f < kHere; ++f)
#pragma unroll
        for (int q = 0; q < 4; ++q) acc[BEGIN + f][q] += static_cast<double>(sums[f][q]);
    if constexpr (BEGIN + kHere < kAll) add_chunk16<NT, BFLOAT, COLUMNS, BEGIN + kHere>(acc, chunk, n);
}

template <int NT, bool BFLOAT, bool COLUMNS>
__device__ __forceinline__ void accumulate16(double (&acc)[fragments<NT>()][4], const Rows& rows, const void* data,
                                             char* staging) {
    const int n = static_cast<int>(rows.fibres.n);
    stream_rows<COLUMNS>(rows, data, kRows16, staging, [&](const char* at) {
        add_chunk16<NT, BFLOAT, COLUMNS>(acc, reinterpret_cast<const uint16_t*>(at), n);
    });
}

// Whether a map, of which this thread has an entry's magnitude, or the extremes of several, spreads so little that
// normalising it would stretch the rounding of floats: the way in double is for that.
__device__ __forceinline__ bool is_flat(double least, double largest, const Block& block) {
    const double high = block.max(largest), low = -block.max(-least);
    return low > 15.0 / 16 * high;
}

// How a Gram matrix is summed: in double throughout, of any type, or as above.
template <int NT, class In, bool COLUMNS>
struct InDouble {
    const Rows& rows;
    const void* data;
    bool center;
    __device__ __forceinline__ void operator()(double (&acc)[fragments<NT>()][4], char* staging) const {
        accumulate<NT, In, COLUMNS>(acc, rows, data, center, staging);
    }
};
template <int NT, bool COLUMNS>
struct In16Bits {
    const Rows& rows;
    const void* data;
    static constexpr bool center = false;
    __device__ __forceinline__ void operator()(double (&acc)[fragments<NT>()][4], char* staging) const {
        if (rows.fibres.dtype == DType::bf16)
            accumulate16<NT, true, COLUMNS>(acc, rows, data, staging);
        else
            accumulate16<NT, false, COLUMNS>(acc, rows, data, staging);
    }
};

// g [8 NT, kPitch] = F^T F, zeros beyond n; rows less their means where `center`. `staging` may lie where g does.
template <int NT, class Sum>
__device__ void gram_of(int n, const Sum& sum, char* staging, double* g, double* scratch) {
    constexpr int kWidth = kPitch<NT>;
    const int thread = static_cast<int>(threadIdx.x);
    double acc[fragments<NT>()][4];
#pragma unroll
    for (int f = 0; f < fragments<NT>(); ++f)
#pragma unroll
        for (int q = 0; q < 4; ++q) acc[f][q] = 0;
    sum(acc, staging);
    for (int w = 0; w < kGramWarps; ++w) {
        __syncthreads();
        if (warp_of_thread() != w) continue;
        int f = 0;
#pragma unroll
        for (int r = 0; 2 * r < NT; ++r)
#pragma unroll
            for (int s = 2 * r; s < NT; ++s, ++f)
                each_entry(r, s, [&](int i, int j, int q) {
                    if (i < 8 * NT) g[i * kWidth + j] = (w == 0 ? 0.0 : g[i * kWidth + j]) + acc[f][q];
                });
    }
    __syncthreads();
    for (int at = thread; at < 64 * NT * NT; at += 32 * kGramWarps) {
        const int i = at / (8 * NT), j = at % (8 * NT);
        if (i > j) g[i * kWidth + j] = g[j * kWidth + i];
    }
    __syncthreads();
    if (!sum.center) return;
    // J G J with J = I - 1 1^T / n. scratch: [kSmall + 1]
    if (thread < n) {
        double total = 0;
        for (int i = 0; i < n; ++i) total += g[i * kWidth + thread];
        scratch[thread] = total / n;
    }
    __syncthreads();
    if (thread == 0) {
        double total = 0;
        for (int i = 0; i < n; ++i) total += scratch[i];
        scratch[kSmall] = total / n;
    }
    __syncthreads();
    for (int at = thread; at < n * n; at += 32 * kGramWarps) {
        const int i = at / n, j = at % n;
        g[i * kWidth + j] += scratch[kSmall] - scratch[i] - scratch[j];
    }
    __syncthreads();
}

// How chunks of so many rows can be copied. Of a column, pieces of 32 bytes at least: memory gives no less.
inline Rows rows_of(const TensorBatch& x, int mode, int64_t chunk) {
    const Fibres f = fibres_of(x.first, mode);
    const int64_t width = size_of(f.dtype);
    const auto whole = [&](int64_t entries) { return entries * width % 16 == 0; };
    if (f.others > 1 || reinterpret_cast<uintptr_t>(f.data) % 16 != 0 || !whole(x.batch_stride))
        return {f, Copy::entries};
    if (f.step == 1 && f.stride[0] == f.n && whole(chunk * f.n)) return {f, Copy::rows};
    const bool columns = f.stride[0] == 1 && whole(f.step) && whole(f.count) && chunk * width % 32 == 0;
    return {f, columns ? Copy::columns : Copy::entries};
}

// kernel<NT, In> for n and the dtype, by `Launch::run<NT, In>()`
template <class In, class Launch>
void for_size(int64_t n, const Launch& go) {
    if (n <= 32)
        go.template run<4, In>();
    else if (n <= 56)
        go.template run<7, In>();
    else
        go.template run<8, In>();
}
template <class Launch>
void for_size_and_dtype(int64_t n, DType dtype, const Launch& go) {
    switch (dtype) {
        case DType::f32:
            return for_size<float>(n, go);
        case DType::f64:
            return for_size<double>(n, go);
        default:
            return for_size<uint16_t>(n, go);
    }
}

}  // namespace tsm::cuda
