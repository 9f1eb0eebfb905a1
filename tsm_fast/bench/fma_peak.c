// Independent multiplications and additions of float32, fused, in vectors as long as the machine has them.
#if defined(__AVX512F__)
enum { kBytes = 64 };
#elif defined(__AVX2__)
enum { kBytes = 32 };
#else
enum { kBytes = 16 };
#endif
enum { kChains = 12, kLanes = kBytes / 4 };
typedef float Vec __attribute__((vector_size(kBytes)));

// Makes `steps` of them in each of the chains; returns the number of operations.
double fma_steps(long steps) {
    volatile float opaque = 0.999f;
    const Vec factor = opaque + (Vec){0};
    Vec acc[kChains];
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) acc[c] = factor * (float)c;
    for (long i = 0; i < steps; ++i)
#pragma GCC unroll 12
        for (int c = 0; c < kChains; ++c) acc[c] = acc[c] * factor + factor;
    Vec sum = {0};
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) sum += acc[c];
    for (int l = 0; l < kLanes; ++l) opaque = opaque + sum[l];  // the work is used
    return 2.0 * kChains * kLanes * (double)steps;
}
