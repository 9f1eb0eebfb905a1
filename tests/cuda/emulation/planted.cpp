#include "planted.h"

#include "cuda/parts/launch.cuh"

using namespace tsm::cuda;

namespace {

struct Kernel {
    const char* name;
    unsigned blocks, threads;
    void (*run)(double* out);  // its result is out[0]
};

double* shared() {
    return reinterpret_cast<double*>(shared_memory());
}
int thread() {
    return static_cast<int>(threadIdx.x);
}
// Two numbers of this thread, which lie in `from` too.
void copy_own(double* to, const double* from) {
    copy_async(to + 2 * thread(), from + 2 * thread());
    commit_copies();
}

const Kernel kKernels[] = {
    {"a barrier that a warp misses", 1, 64,
     [](double*) {
         if (threadIdx.x < 32) __syncthreads();
     }},
    {"a warp barrier that lanes miss", 1, 32,
     [](double*) {
         if (threadIdx.x < 3) __syncwarp(kAllLanes);
     }},
    {"a shuffle that meets a warp barrier", 1, 32,
     [](double*) {
         if (threadIdx.x < 3)
             __syncwarp(kAllLanes);
         else
             __shfl_sync(kAllLanes, 1.0, 0);
     }},
    {"copies that nobody waits for", 1, 32, [](double* out) { copy_own(shared(), out); }},

    {"no barrier before a read", 1, 64,
     [](double* out) {
         shared()[thread()] = 1;
         out[thread()] = shared()[(thread() + 32) % 64];
     }},
    {"no barrier after a read", 1, 64,
     [](double* out) {
         shared()[thread()] = 1;
         __syncthreads();
         const double x = shared()[(thread() + 32) % 64];
         shared()[thread()] = 2;
         out[thread()] = x;
     }},
    {"a warp barrier for two warps", 1, 64,
     [](double* out) {
         shared()[thread()] = 1;
         __syncwarp(kAllLanes);
         out[thread()] = shared()[(thread() + 32) % 64];
     }},
    {"a shuffle for a barrier", 1, 32,
     [](double* out) {
         shared()[thread()] = 1;
         const double x = __shfl_xor_sync(kAllLanes, 1.0, 1);
         out[thread()] = x * shared()[thread() ^ 1];
     }},
    {"a product for a barrier", 1, 32,
     [](double* out) {
         double c[4] = {0, 0, 0, 0};
         shared()[thread()] = 1;
         multiply_add(c, 1, 1, 1);
         out[thread()] = c[0] * shared()[thread() ^ 1];
     }},
    {"one reader among many", 1, 1024,
     [](double* out) {
         if (thread() == 0) shared()[0] = 1;
         __syncthreads();
         if (thread() < 32 || thread() == 777) out[thread()] = shared()[0];
         __syncwarp(kAllLanes);
         if (thread() == 0) shared()[0] = 2;
     }},
    {"the same number from two threads", 1, 64, [](double* out) { out[0] = 1; }},
    {"two blocks write a word", 2, 32,
     [](double* out) {
         if (thread() == 0) out[0] = blockIdx.x;
     }},
    {"a block reads what another writes", 2, 32,
     [](double* out) {
         if (thread() == 0 && blockIdx.x == 0) out[0] = 1;
         __syncthreads();
         if (thread() == 0 && blockIdx.x == 1) out[1] = out[0];
     }},
    {"a block writes what two others read", 3, 32,
     [](double* out) {
         if (thread() == 0 && blockIdx.x < 2) out[1 + blockIdx.x] = out[0];
         if (thread() == 0 && blockIdx.x == 2) out[0] = 1;
     }},
    {"a copy without a wait", 1, 32,
     [](double* out) {
         copy_own(shared(), out + 64);
         __syncwarp(kAllLanes);
         out[thread()] = shared()[thread()];
         commit_copies();
         wait_for_all_but_newest();
     }},
    {"a wait that leaves the newest copies out", 1, 32,
     [](double* out) {
         copy_own(shared(), out + 64);
         copy_own(shared() + 64, out + 64);
         wait_for_all_but_newest();
         __syncwarp(kAllLanes);
         out[thread()] = shared()[64 + thread()];
         commit_copies();
         wait_for_all_but_newest();
     }},
    {"a wait without a barrier", 1, 32,
     [](double* out) {
         copy_own(shared(), out + 64);
         commit_copies();
         wait_for_all_but_newest();
         out[thread()] = shared()[2 * thread() ^ 2];
     }},
    {"a copy over what is being read", 1, 32,
     [](double* out) {
         shared()[2 * thread()] = 1;
         __syncwarp(kAllLanes);
         out[thread()] = shared()[2 * thread() ^ 2];
         copy_own(shared(), out + 64);
         __syncwarp(kAllLanes);
         commit_copies();
         wait_for_all_but_newest();
     }},

    {"sound: barriers", 1, 64,
     [](double* out) {
         for (int turn = 0; turn < 3; ++turn) {
             shared()[thread()] = turn;
             __syncthreads();
             out[thread()] = shared()[(thread() + 32) % 64];
             __syncthreads();
         }
     }},
    {"sound: warp barriers", 1, 64,
     [](double* out) {
         for (int turn = 0; turn < 3; ++turn) {
             shared()[thread()] = turn;
             __syncwarp(kAllLanes);
             out[thread()] = shared()[thread() ^ 1] + warp_sum(1.0);
             __syncwarp(kAllLanes);
         }
     }},
    {"sound: copies in turn", 1, 64,
     [](double* out) {
         copy_own(shared(), out + 128);
         for (int turn = 0; turn < 4; ++turn) {
             if (turn < 3) copy_own(shared() + (turn + 1) % 2 * 128, out + 128);
             if (turn == 3) commit_copies();
             wait_for_all_but_newest();
             __syncthreads();
             out[thread()] = shared()[turn % 2 * 128 + 2 * (63 - thread())];
             __syncthreads();
         }
     }},
    {"sound: blocks with a byte each", 8, 32,
     [](double* out) {
         if (thread() == 0) reinterpret_cast<char*>(out)[blockIdx.x] = 0;
     }},
};

}  // namespace

void run_planted(const std::string& name) {
    alignas(16) static double memory[1024];
    for (double& x : memory) x = 1;
    for (const Kernel& kernel : kKernels) {
        if (kernel.name != name) continue;
        emulate(kernel.run, kernel.blocks, kernel.threads, 4096, static_cast<double*>(memory));
        for (const double x : memory)
            if (std::isnan(x)) throw std::logic_error("its result is NaN");
        return;
    }
    throw std::invalid_argument("no kernel is named " + name);
}
