// Runs CUDA kernels on a CPU, for tests: the same sources compiled as C++. Threads of a block are fibers on one OS
// thread that take turns at barriers and warp operations; blocks run one after the other. What it finds besides wrong
// results: barriers that not all threads reach, copies that come too late, in a build with AddressSanitizer accesses
// outside shared or global memory, and in one with TSM_RACES races between threads (races.h).
// TSM_EMULATION_ORDER=reverse lets threads take their turns the other way round: what depends on the order of threads
// between two barriers then shows as a different result. TSM_EMULATION_SHARED is the shared memory that a block may
// have.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

using std::fabs;
using std::fma;
using std::sqrt;

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__ __restrict

struct Dimensions {
    unsigned x = 1, y = 1, z = 1;
};
extern Dimensions threadIdx, blockIdx, blockDim, gridDim;

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0 };
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
inline const char* cudaGetErrorString(cudaError_t) {
    return "";
}
inline cudaError_t cudaGetLastError() {
    return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
    const char* bytes = std::getenv("TSM_EMULATION_SHARED");
    *value = bytes ? std::atoi(bytes) : 99 * 1024;  // the least of the supported architectures (8.6, 8.9, 12.0)
    return cudaSuccess;
}
inline cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) {
    return cudaSuccess;
}

// Kernel, threads of a block and bytes of shared memory of every launch so far.
inline std::vector<std::tuple<std::string, int, int64_t>> emulated_launches;

// Runs `body(context)` in every thread of every block.
void run_blocks(void (*body)(void*), void* context, unsigned blocks, unsigned threads, size_t shared);

template <class... Parameters>
void emulate(void (*kernel)(Parameters...), unsigned blocks, unsigned threads, size_t shared, Parameters... arguments) {
    auto call = [&] { kernel(arguments...); };
    run_blocks([](void* context) { (*static_cast<decltype(call)*>(context))(); }, &call, blocks, threads, shared);
}

char* shared_memory();
void __syncthreads();
void __syncwarp(unsigned mask);
// Every lane's 64 bits, taken from lane `from` of the same warp.
uint64_t exchange(uint64_t bits, int from);

template <class T>
T __shfl_sync(unsigned, T x, int from) {
    uint64_t bits = 0;
    std::memcpy(&bits, &x, sizeof(T));
    bits = exchange(bits, from & 31);
    std::memcpy(&x, &bits, sizeof(T));
    return x;
}
template <class T>
T __shfl_xor_sync(unsigned mask, T x, int step) {
    return __shfl_sync(mask, x, (static_cast<int>(threadIdx.x) & 31) ^ step);
}

unsigned __ballot_sync(unsigned mask, bool x);
inline int __popc(unsigned bits) {
    return __builtin_popcount(bits);
}

inline double __longlong_as_double(long long bits) {
    double x;
    std::memcpy(&x, &bits, 8);
    return x;
}
inline long long __double_as_longlong(double x) {
    long long bits;
    std::memcpy(&bits, &x, 8);
    return bits;
}
inline int __double2hiint(double x) {
    int64_t bits;
    std::memcpy(&bits, &x, 8);
    return static_cast<int>(bits >> 32);
}
inline double rsqrt(double x) {
    return 1 / std::sqrt(x);
}
inline float rsqrt(float x) {
    return 1 / std::sqrt(x);
}
template <class T>
T __ldg(const T* address) {
    return *address;
}

struct __half {
    uint16_t bits;
};
inline __half __ushort_as_half(uint16_t bits) {
    return {bits};
}
inline float __half2float(__half x) {
    const int exponent = x.bits >> 10 & 31, fraction = x.bits & 1023;
    float size = exponent == 31  ? (fraction ? NAN : INFINITY)
                 : exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                 : std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
    return x.bits >> 15 ? -size : size;
}
inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

// Twins of the functions with PTX in launch.cuh. Copied bytes are NaN until the thread waits for their group.
void emulated_copy_async(void* shared, const void* global);
void emulated_commit_copies();
void emulated_wait_for_copies(size_t newest);  // all groups but so many
void emulated_multiply_add(double (&c)[4], double a0, double a1, double b);
// Sums in float lose what does not fit, as those of the units may.
void emulated_multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bool bfloat);
