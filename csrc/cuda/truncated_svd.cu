// Eigenpairs of a batch of Gram matrices, all of a matrix in one place: a warp each in shared memory up to kSmall, a
// block each up to kLargest, in shared memory where that leaves room for kAtOnce blocks on a multiprocessor, and else
// in the workspace.
#include "cuda/parts/eigen.cuh"

namespace tsm::cuda {
namespace {

constexpr int kThreads = 128;  // of a large matrix
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

    __device__ double at(int64_t item, int i, int j) const {
        const int64_t offset = (item * n + i) * n + j;
        return wide_gram ? static_cast<const double*>(gram)[offset]
                         : static_cast<double>(static_cast<const float*>(gram)[offset]);
    }
    template <class T, class Group>
    __device__ void run(int64_t item, const EigenMemory<T>& memory, const Group& group) const {
        solve(
            memory, n, rank, group, [&](int i, int j) { return at(item, i, j); },
            [&](int j, double lambda) {
                write(values, item * rank + j, lambda > 0 ? sqrt(lambda) : lambda == lambda ? 0.0 : lambda);
            },
            [&](int i, int j, double x) { write(vectors, (item * n + i) * rank + j, x); });
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
    if (problem.skip && problem.skip[item]) return;
    char* own = shared_memory();
    const EigenMemory<T> memory(reinterpret_cast<T*>(own), own + bytes - EigenMemory<T>::bytes(problem.n), problem.n);
    problem.run(item, memory, Warp{});
}

// Block b: matrix b. workspace: [B, matrix(n)], or null for shared memory
template <class T>
__global__ void __launch_bounds__(kThreads) svd_large_kernel(Problem problem, T* workspace) {
    const int64_t item = blockIdx.x;
    if (problem.skip && problem.skip[item]) return;
    char* shared = shared_memory();
    const Block block{reinterpret_cast<double*>(shared)};
    char* vectors = shared + kBlockScratch * 8;
    const int64_t matrix = EigenMemory<T>::matrix(problem.n);
    T* a = workspace ? workspace + item * matrix : reinterpret_cast<T*>(vectors + EigenMemory<T>::bytes(problem.n));
    problem.run(item, EigenMemory<T>(a, vectors, problem.n), block);
}

template <class T>
bool fits(int n) {
    constexpr int64_t kReserved = 1024;  // of every block
    return EigenMemory<T>::matrix(n) * static_cast<int64_t>(sizeof(T)) + EigenMemory<T>::bytes(n) + kBlockScratch * 8 <=
           (shared_limit() + kReserved) / kAtOnce - kReserved;
}

template <class T>
void run(const Problem& problem, void* workspace, void* stream) {
    const int n = problem.n;
    if (n <= kSmall) {
        launch(sizeof(T) == 8 ? "svd_small_kernel<double>" : "svd_small_kernel<float>", svd_small_kernel<T>,
               problem.batch, 32, small_bytes<T>(n), stream, problem);
        return;
    }
    const int64_t matrix = fits<T>(n) ? EigenMemory<T>::matrix(n) * static_cast<int64_t>(sizeof(T)) : 0;
    launch(sizeof(T) == 8 ? "svd_large_kernel<double>" : "svd_large_kernel<float>", svd_large_kernel<T>, problem.batch,
           kThreads, kBlockScratch * 8 + EigenMemory<T>::bytes(n) + matrix, stream, problem,
           fits<T>(n) ? nullptr : static_cast<T*>(workspace));
}

}  // namespace

int64_t truncated_svd_workspace(int n, int64_t batch, bool wide) {
    if (n <= kSmall || (wide ? fits<double>(n) : fits<float>(n))) return 0;
    return batch * (wide ? EigenMemory<double>::matrix(n) * 8 : EigenMemory<float>::matrix(n) * 4);
}

void truncated_svd(const void* gram, bool wide_gram, int64_t batch, int n, int rank, bool wide, const Output& values,
                   const Output& vectors, const bool* skip, void* workspace, int64_t bytes, void* stream) {
    if (n < 1 || n > kLargest) throw std::invalid_argument("gram must be at most 256 x 256 here");
    require_workspace(bytes, truncated_svd_workspace(n, batch, wide));
    const Problem problem{gram, wide_gram, batch, n, rank, values, vectors, skip};
    wide ? run<double>(problem, workspace, stream) : run<float>(problem, workspace, stream);
}

}  // namespace tsm::cuda
