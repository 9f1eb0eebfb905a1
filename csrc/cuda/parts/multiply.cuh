// A tile of a matrix product in double on the matrix units, its operands read through functions.
#pragma once
#include "cuda/parts/launch.cuh"

namespace tsm::cuda {

// A block of kTileThreads makes a kTile x kTile tile of A^T B. Its operands pass through shared memory kTileDepth deep.
constexpr int kTile = 64, kTileThreads = 128, kTileDepth = 16;
constexpr int kTilePitch = kTile + 4;  // keeps the four rows of a fragment in different banks
constexpr int64_t kTileBytes = int64_t{2} * kTileDepth * kTilePitch * 8;

// Each of the 4 warps has 32 x 32 of the tile: 2 x 4 fragments of 16 x 8.
struct Tile {
    double c[2][4][4];
    // visit(i, j, x) for every entry of the tile that this thread holds
    template <class Visit>
    __device__ __forceinline__ void each(Visit visit) const {
        const int lane = lane_of_thread(), warp = warp_of_thread();
#pragma unroll
        for (int r = 0; r < 2; ++r)
#pragma unroll
            for (int s = 0; s < 4; ++s)
#pragma unroll
                for (int q = 0; q < 4; ++q)
                    visit(warp / 2 * 32 + r * 16 + q / 2 * 8 + lane / 4, warp % 2 * 32 + s * 8 + lane % 4 * 2 + q % 2,
                          c[r][s][q]);
    }
};

// a(k, i), b(k, j): entries of A [depth, 64] and B [depth, 64], 0 outside the matrices. along_k: neighbours in k lie
// together in memory, else neighbours in i or j do.
template <class A, class B>
__device__ __forceinline__ void multiply_tile(Tile& tile, int64_t depth, bool a_along_k, A a, bool b_along_k, B b,
                                              double* shared) {
    double* as = shared;
    double* bs = shared + kTileDepth * kTilePitch;
    const int lane = lane_of_thread(), warp = warp_of_thread(), thread = static_cast<int>(threadIdx.x);
#pragma unroll
    for (int r = 0; r < 2; ++r)
#pragma unroll
        for (int s = 0; s < 4; ++s)
#pragma unroll
            for (int q = 0; q < 4; ++q) tile.c[r][s][q] = 0;
    for (int64_t k0 = 0; k0 < depth; k0 += kTileDepth) {
        for (int at = thread; at < kTileDepth * kTile; at += kTileThreads) {
            const int ka = a_along_k ? at % kTileDepth : at / kTile, i = a_along_k ? at / kTileDepth : at % kTile;
            as[ka * kTilePitch + i] = k0 + ka < depth ? a(k0 + ka, i) : 0.0;
            const int kb = b_along_k ? at % kTileDepth : at / kTile, j = b_along_k ? at / kTileDepth : at % kTile;
            bs[kb * kTilePitch + j] = k0 + kb < depth ? b(k0 + kb, j) : 0.0;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < kTileDepth; k += 4) {
            const double* ar = as + (k + lane % 4) * kTilePitch + warp / 2 * 32 + lane / 4;
            const double* br = bs + (k + lane % 4) * kTilePitch + warp % 2 * 32 + lane / 4;
#pragma unroll
            for (int s = 0; s < 4; ++s) {
                multiply_add(tile.c[0][s], ar[0], ar[8], br[8 * s]);
                multiply_add(tile.c[1][s], ar[16], ar[24], br[8 * s]);
            }
        }
        __syncthreads();
    }
}

}  // namespace tsm::cuda
