// Eigenpairs of a batch of Gram matrices. Up to kSmall a warp each, in shared memory. Above, in double and where half
// the matrix fits there, by the kernels of tridiagonal.cuh; what these leave, in float, and up to kLargest, a block
// each, in shared memory where that leaves room for kAtOnce blocks on a multiprocessor, and else in the workspace.
#include "cuda/parts/tridiagonal.cuh"

namespace tsm::cuda {
namespace {

constexpr int kThreads = 128;  // of a large matrix
constexpr int kSmallest = 40;  // of the matrices for the kernels of tridiagonal.cuh
// One at a time, a block leaves a multiprocessor idle while its rotations wait for each other: counted for an H200,
// that costs twice what the workspace does.
constexpr int kAtOnce = 2;

struct Problem {
    const void* gram;  // [B, n, n]
    bool wide_gram;
    int64_t batch;
    int n, rank;
    Output values, vectors;
    const bool* skip;

    __device__ bool leaves(int64_t item) const { return skip && skip[item]; }
    __device__ double at(int64_t item, int i, int j) const {
        const int64_t offset = (item * n + i) * n + j;
        return wide_gram ? static_cast<const double*>(gram)[offset]
                         : static_cast<double>(static_cast<const float*>(gram)[offset]);
    }
    __device__ void set_value(int64_t item, int j, double lambda) const {
        write(values, item * rank + j, lambda > 0 ? sqrt(lambda) : lambda == lambda ? 0.0 : lambda);
    }
    __device__ void set_entry(int64_t item, int i, int j, double x) const {
        write(vectors, (item * n + i) * rank + j, x);
    }
    template <class T, class Group>
    __device__ void run(int64_t item, const EigenMemory<T>& memory, const Group& group) const {
        solve(
            memory, n, rank, group, [&](int i, int j) { return at(item, i, j); },
            [&](int j, double lambda) { set_value(item, j, lambda); },
            [&](int i, int j, double x) { set_entry(item, i, j, x); });
    }
};

template <class T>
__host__ __device__ int64_t small_bytes(int n) {
    return (EigenMemory<T>::matrix(n) * static_cast<int64_t>(sizeof(T)) + 15) / 16 * 16 + EigenMemory<T>::bytes(n);
}

// Block b, of one warp: matrix b.
template <class T>
__global__ void __launch_bounds__(32) svd_small_kernel(Problem problem) {
    const int64_t item = blockIdx.x, bytes = small_bytes<T>(problem.n);
    if (problem.leaves(item)) return;
    char* own = shared_memory();
    const EigenMemory<T> memory(reinterpret_cast<T*>(own), own + bytes - EigenMemory<T>::bytes(problem.n), problem.n);
    problem.run(item, memory, Warp{});
}

// What the kernels of tridiagonal.cuh work with: an item's numbers together, and whether it is settled or to be left
// alone.
struct Workspace {
    double* numbers;
    bool* settled;

    __device__ TridiagonalMemory of(int64_t item, int n) const {
        return {numbers + item * TridiagonalMemory::numbers(n), n};
    }
};

// Block b: matrix b, of at most 32 TILES rows.
template <int TILES>
__global__ void __launch_bounds__(32 * kWarps<TILES>) reduce_kernel(Problem problem, Workspace workspace) {
    const int64_t item = blockIdx.x;
    const bool settled =
        problem.leaves(item) || reduce_item<TILES>(workspace.of(item, problem.n), problem.n, shared_memory(),
                                                   [&](int i, int j) { return problem.at(item, i, j); });
    if (threadIdx.x == 0) workspace.settled[item] = settled;
}

// Block b, of a thread for each row: matrix b.
__global__ void __launch_bounds__(256, 3) tridiagonal_kernel(Problem problem, Workspace workspace) {
    const int64_t item = blockIdx.x;
    if (problem.leaves(item) || !workspace.settled[item]) return;
    const bool good = tridiagonal_item(workspace.of(item, problem.n), problem.n, problem.rank, shared_memory(),
                                       [&](int j, double lambda) { problem.set_value(item, j, lambda); });
    if (threadIdx.x == 0) workspace.settled[item] = good;
}

// kStrip vectors of a matrix.
__global__ void __launch_bounds__(kBackThreads) back_kernel(Problem problem, Workspace workspace, int strips) {
    const int64_t item = blockIdx.x / strips;
    if (problem.leaves(item) || !workspace.settled[item]) return;
    back_item(workspace.of(item, problem.n), problem.n, problem.rank,
              static_cast<int>(blockIdx.x - item * strips) * kStrip, reinterpret_cast<double*>(shared_memory()),
              [&](int i, int j, double x) { problem.set_entry(item, i, j, x); });
}

// Block b: matrix b. workspace: `stride` numbers for each, or null for shared memory
template <class T>
__global__ void __launch_bounds__(kThreads) svd_large_kernel(Problem problem, T* workspace, int64_t stride) {
    const int64_t item = blockIdx.x;
    if (problem.leaves(item)) return;
    char* shared = shared_memory();
    const Block block{reinterpret_cast<double*>(shared)};
    char* vectors = shared + kBlockScratch * 8;
    T* a = workspace ? workspace + item * stride : reinterpret_cast<T*>(vectors + EigenMemory<T>::bytes(problem.n));
    problem.run(item, EigenMemory<T>(a, vectors, problem.n), block);
}

template <class T>
bool fits(int n) {
    constexpr int64_t kReserved = 1024;  // of every block
    return EigenMemory<T>::matrix(n) * static_cast<int64_t>(sizeof(T)) + EigenMemory<T>::bytes(n) + kBlockScratch * 8 <=
           (shared_limit() + kReserved) / kAtOnce - kReserved;
}

// Whether half of a matrix fits on chip. A warp makes as short work of the smallest.
bool by_tridiagonal(int n, bool wide) {
    return wide && n > kSmallest && reduce_bytes<8>(n) <= shared_limit();
}

template <int TILES>
void launch_reduction(const Problem& problem, const Workspace& workspace, void* stream) {
    launch("reduce_kernel<" + std::to_string(TILES) + ">", reduce_kernel<TILES>, problem.batch, 32 * kWarps<TILES>,
           reduce_bytes<TILES>(problem.n), stream, problem, workspace);
}

template <class T>
void run_large(const Problem& problem, void* workspace, int64_t stride, void* stream) {
    const int n = problem.n;
    const int64_t matrix = fits<T>(n) ? EigenMemory<T>::matrix(n) * static_cast<int64_t>(sizeof(T)) : 0;
    launch(sizeof(T) == 8 ? "svd_large_kernel<double>" : "svd_large_kernel<float>", svd_large_kernel<T>, problem.batch,
           kThreads, kBlockScratch * 8 + EigenMemory<T>::bytes(n) + matrix, stream, problem,
           fits<T>(n) ? nullptr : static_cast<T*>(workspace), stride);
}

// workspace: `stride` numbers for each matrix that is not on chip
template <class T>
void run(const Problem& problem, void* workspace, int64_t stride, void* stream) {
    const int n = problem.n;
    if (n > kSmall) return run_large<T>(problem, workspace, stride, stream);
    launch(sizeof(T) == 8 ? "svd_small_kernel<double>" : "svd_small_kernel<float>", svd_small_kernel<T>, problem.batch,
           32, small_bytes<T>(n), stream, problem);
}

void run_tridiagonal(Problem problem, void* memory, void* stream) {
    const int n = problem.n, strips = (problem.rank + kStrip - 1) / kStrip;
    const int64_t stride = TridiagonalMemory::numbers(n);
    const Workspace workspace{static_cast<double*>(memory),
                              reinterpret_cast<bool*>(static_cast<double*>(memory) + problem.batch * stride)};
    if (n <= 64)
        launch_reduction<2>(problem, workspace, stream);
    else if (n <= 128)
        launch_reduction<4>(problem, workspace, stream);
    else
        launch_reduction<8>(problem, workspace, stream);
    launch("tridiagonal_kernel", tridiagonal_kernel, problem.batch, (n + 31) / 32 * 32, tridiagonal_bytes(n), stream,
           problem, workspace);
    launch("back_kernel", back_kernel, problem.batch * strips, kBackThreads, back_bytes(n), stream, problem, workspace,
           strips);
    problem.skip = workspace.settled;
    run<double>(problem, memory, stride, stream);
}

}  // namespace

int64_t truncated_svd_workspace(int n, int64_t batch, bool wide) {
    if (by_tridiagonal(n, wide)) return batch * (TridiagonalMemory::numbers(n) * 8 + 1);
    if (n <= kSmall || (wide ? fits<double>(n) : fits<float>(n))) return 0;
    return batch * (wide ? EigenMemory<double>::matrix(n) * 8 : EigenMemory<float>::matrix(n) * 4);
}

void truncated_svd(const void* gram, bool wide_gram, int64_t batch, int n, int rank, bool wide, const Output& values,
                   const Output& vectors, const bool* skip, void* workspace, int64_t bytes, void* stream) {
    if (n < 1 || n > kLargest) throw std::invalid_argument("gram must be at most 256 x 256 here");
    require_workspace(bytes, truncated_svd_workspace(n, batch, wide));
    const Problem problem{gram, wide_gram, batch, n, rank, values, vectors, skip};
    if (by_tridiagonal(n, wide))
        run_tridiagonal(problem, workspace, stream);
    else
        wide ? run<double>(problem, workspace, EigenMemory<double>::matrix(n), stream)
             : run<float>(problem, workspace, EigenMemory<float>::matrix(n), stream);
}

}  // namespace tsm::cuda
