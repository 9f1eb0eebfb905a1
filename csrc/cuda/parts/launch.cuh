// What every kernel shares: launching, groups of threads, reductions, reading of any float type, the matrix units and
// asynchronous copies. All PTX of the backend is here; `tests/cuda/emulation` runs the same kernels on a CPU, and each
// function with PTX has a twin there.
#pragma once
#include <cmath>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "cuda/steps.h"

#ifdef TSM_EMULATION
#include "cuda_emulation.h"
#else
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

namespace tsm::cuda {

// ---- host side ----
inline void check(cudaError_t status, const std::string& what) {
    if (status != cudaSuccess) throw std::runtime_error(what + ": " + cudaGetErrorString(status));
}

inline void require_workspace(int64_t given, int64_t needed) {
    if (given < needed)
        throw std::invalid_argument("workspace must have at least " + std::to_string(needed) + " bytes, got " +
                                    std::to_string(given));
}

// The dynamic shared memory that one block may have here.
inline int shared_limit() {
    int device = 0, bytes = 0;
    check(cudaGetDevice(&device), "no CUDA device");
    check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "shared memory");
    return bytes;
}

// Of template arguments in names of kernels.
inline const char* type_name(float) {
    return "float";
}
inline const char* type_name(double) {
    return "double";
}
inline const char* type_name(uint16_t) {
    return "unsigned short";
}

// `name`: the kernel's, for errors.
template <class... Parameters, class... Arguments>
void launch(const std::string& name, void (*kernel)(Parameters...), int64_t blocks, int threads, int64_t shared,
            [[maybe_unused]] void* stream, Arguments... arguments) {
    if (blocks <= 0) return;
    if (blocks > 0x7fffffff) throw std::invalid_argument(name + ": too many blocks for one launch");
    if (shared > 48 * 1024) {
        // Always the same: the attribute is the kernel's, whichever thread launches it next.
        const int most = shared_limit();
        if (shared > most) throw std::runtime_error(name + ": too much shared memory for this GPU");
        check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   most),
              name);
    }
#ifdef TSM_EMULATION
    emulated_launches.push_back({name, threads, shared});
    emulate(kernel, static_cast<unsigned>(blocks), static_cast<unsigned>(threads), static_cast<size_t>(shared),
            static_cast<Parameters>(arguments)...);
#else
    const auto start = [&](Parameters... parameters) {
        void* addresses[] = {&parameters...};
        return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(static_cast<unsigned>(blocks)),
                                dim3(static_cast<unsigned>(threads)), addresses, static_cast<size_t>(shared),
                                static_cast<cudaStream_t>(stream));
    };
    check(start(static_cast<Parameters>(arguments)...), name);
#endif
    check(cudaGetLastError(), name);
}

#ifndef TSM_EMULATION
__device__ __forceinline__ char* shared_memory() {
    extern __shared__ __align__(128) char memory[];
    return memory;
}
#endif

// The same address, known to lie in shared memory.
template <class T>
__device__ __forceinline__ T* in_shared(T* address) {
#ifndef TSM_EMULATION
    __builtin_assume(__isShared(address));
#endif
    return address;
}

// ---- groups of threads ----
constexpr unsigned kAllLanes = 0xffffffffu;
__device__ __forceinline__ int lane_of_thread() {
    return static_cast<int>(threadIdx.x) & 31;
}
__device__ __forceinline__ int warp_of_thread() {
    return static_cast<int>(threadIdx.x) >> 5;
}

template <class T>
__device__ __forceinline__ T warp_sum(T x) {
    for (int step = 16; step > 0; step >>= 1) x += __shfl_xor_sync(kAllLanes, x, step);
    return x;
}
template <class T>
__device__ __forceinline__ T warp_max(T x) {
    for (int step = 16; step > 0; step >>= 1) {
        const T other = __shfl_xor_sync(kAllLanes, x, step);
        x = other > x ? other : x;
    }
    return x;
}

__device__ __forceinline__ int count_lanes(bool which) {
    return __popc(__ballot_sync(kAllLanes, which));
}

// One warp working alone.
struct Warp {
    static constexpr bool kOneWarp = true;
    __device__ __forceinline__ int rank() const { return lane_of_thread(); }
    __device__ __forceinline__ int size() const { return 32; }
    __device__ __forceinline__ void sync() const { __syncwarp(kAllLanes); }
    __device__ __forceinline__ double sum(double x) const { return warp_sum(x); }
    __device__ __forceinline__ double max(double x) const { return warp_max(x); }
};

// Numbers of shared memory that a block reduces in; an even count leaves what follows at a multiple of 16 bytes.
constexpr int kBlockScratch = 34;
constexpr int kMostWarps = 32;
static_assert(kBlockScratch >= kMostWarps && kBlockScratch % 2 == 0);

// A whole block of up to kMostWarps warps. scratch: [kBlockScratch] in shared memory
struct Block {
    static constexpr bool kOneWarp = false;
    double* scratch;
    __device__ __forceinline__ int rank() const { return static_cast<int>(threadIdx.x); }
    __device__ __forceinline__ int size() const { return static_cast<int>(blockDim.x); }
    __device__ __forceinline__ void sync() const { __syncthreads(); }
    // The same result for every thread, summed in the same order always.
    __device__ double sum(double x) const { return reduce(scratch, warp_sum(x), false); }
    __device__ double max(double x) const { return reduce(scratch, warp_max(x), true); }
    // Static: a call that takes the block's address would put it, and all that holds it, in local memory.
    __device__ __noinline__ static double reduce(double* memory, double of_warp, bool largest) {
        double* scratch = in_shared(memory);
        if (lane_of_thread() == 0) scratch[warp_of_thread()] = of_warp;
        __syncthreads();
        double total = scratch[0];
        for (int w = 1; w < static_cast<int>(blockDim.x) / 32; ++w)
            total = largest ? (scratch[w] > total ? scratch[w] : total) : total + scratch[w];
        __syncthreads();
        return total;
    }
};

// ---- numbers ----
template <class T>
constexpr T kEpsilon = sizeof(T) == 8 ? T(2.220446049250313e-16) : T(1.1920929e-07);

// The power of two that brings a magnitude into [1/2, 1).
__device__ __forceinline__ double power_below(double largest) {
    int exponent;
    frexp(largest, &exponent);
    return ldexp(1.0, -exponent);
}

// 1/sqrt(x) of a normal number; of others, without a branch, anything.
__device__ __forceinline__ float inverse_root(float x) {
    return rsqrt(x);
}
__device__ __forceinline__ double inverse_root(double x) {
#if defined(TSM_EMULATION)
    return rsqrt(x);
#else
    double y;
    asm("rsqrt.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(x));
    const double error = fma(-x, y * y, 1.0);
    return fma(fma(error, 0.375, 0.5), y * error, y);
#endif
}

// ---- memory ----
// Any float type in double; 16 bits are a bfloat16 or a half.
__device__ __forceinline__ double widen(float x, bool) {
    return static_cast<double>(x);
}
__device__ __forceinline__ double widen(double x, bool) {
    return x;
}
__device__ __forceinline__ double widen(uint16_t bits, bool bfloat) {
    return static_cast<double>(bfloat ? __uint_as_float(static_cast<unsigned>(bits) << 16)
                                      : __half2float(__ushort_as_half(bits)));
}
// The entry at `offset` of an array of any float type.
__device__ __forceinline__ double read(const void* data, DType dtype, int64_t offset) {
    switch (dtype) {
        case DType::f32:
            return static_cast<double>(static_cast<const float*>(data)[offset]);
        case DType::f64:
            return static_cast<const double*>(data)[offset];
        case DType::f16:
            return widen(static_cast<const uint16_t*>(data)[offset], false);
        default:
            return widen(static_cast<const uint16_t*>(data)[offset], true);
    }
}
__device__ __forceinline__ void write(const Output& out, int64_t at, double x) {
    if (out.wide)
        static_cast<double*>(out.data)[at] = x;
    else
        static_cast<float*>(out.data)[at] = static_cast<float>(x);
}
__device__ __forceinline__ bool is_finite(double x) {
    return fabs(x) <= 1.7976931348623157e308;
}
__device__ __forceinline__ double not_a_number() {
    return __longlong_as_double(0x7ff8000000000000LL);
}

// Where fibre k starts, in elements.
__device__ __forceinline__ int64_t fibre_offset(const Fibres& f, int64_t k) {
    if (f.others == 1) return k * f.stride[0];
    int64_t offset = 0;
    for (int i = f.others - 1; i > 0; --i) {
        const int64_t rest = k / f.shape[i];
        offset += (k - rest * f.shape[i]) * f.stride[i];
        k = rest;
    }
    return offset + k * f.stride[0];
}
__device__ __forceinline__ const void* item_data(const void* data, DType dtype, int64_t elements) {
    return static_cast<const char*>(data) + elements * (dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : 2);
}

// 16 bytes from global to shared memory, in the background; both addresses are multiples of 16.
__device__ __forceinline__ void copy_async(void* shared, const void* global) {
#if defined(TSM_EMULATION)
    emulated_copy_async(shared, global);
#else
    const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
#endif
}
__device__ __forceinline__ void commit_copies() {
#if defined(TSM_EMULATION)
    emulated_commit_copies();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Waits until at most the newest committed group of this thread is still on its way.
__device__ __forceinline__ void wait_for_all_but_newest() {
#if defined(TSM_EMULATION)
    emulated_wait_for_copies(1);
#else
    asm volatile("cp.async.wait_group 1;" ::: "memory");
#endif
}

// ---- matrix units ----
// c [16, 8] += a [16, 4] b [4, 8] in double by one warp. Lane l holds a[l/4][l%4] and a[l/4 + 8][l%4], b[l%4][l/4], and
// c[l/4][2(l%4) + {0, 1}], c[l/4 + 8][2(l%4) + {0, 1}].
__device__ __forceinline__ void multiply_add(double (&c)[4], double a0, double a1, double b) {
#if defined(TSM_EMULATION)
    emulated_multiply_add(c, a0, a1, b);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("mma.sync.aligned.m16n8k4.row.col.f64.f64.f64.f64 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+d"(c[0]), "+d"(c[1]), "+d"(c[2]), "+d"(c[3])
                 : "d"(a0), "d"(a1), "d"(b));
#else
    asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
                 : "+d"(c[0]), "+d"(c[1])
                 : "d"(a0), "d"(b));
    asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
                 : "+d"(c[2]), "+d"(c[3])
                 : "d"(a1), "d"(b));
#endif
}

// c [16, 8] += a [16, 16] b [16, 8] by one warp, a and b in 16 bits, two to a register: exact products, sums in float.
// Lane l holds of a rows l/4 (0, 2) and l/4 + 8 (1, 3) and of b column l/4, both at depths 2(l%4) + {0, 1}, and 8 more
// (2, 3 of a, 1 of b); c as above.
template <bool BFLOAT>
__device__ __forceinline__ void multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(TSM_EMULATION)
    emulated_multiply_add(c, a, b, BFLOAT);
#else
    if constexpr (BFLOAT)
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%0, %1, %2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    else
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%0, %1, %2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

}  // namespace tsm::cuda
