// Eigenvectors of tridiagonal matrices from both ends: the rows above row r of (T - lambda I) z = 0 give z from its
// first entry on, those below from its last one, and row r is left over. The r where the product of both is largest
// leaves least (Parlett and Dhillon's twisted factorisation, without its divisions). To be used where no other
// eigenvalue is close; the residuals tell whether it worked.
#pragma once
#include "cpu/level/simd.inl"

namespace tsm::TSM_LEVEL {
namespace {

typedef int64_t Whole __attribute__((vector_size(TSM_VECTOR_BYTES)));
typedef uint64_t Bits __attribute__((vector_size(TSM_VECTOR_BYTES)));

static inline Vec<double> power_of_two(Whole exponent) {  // 0 far below what double holds
    const Whole most = Whole{} + 1000, least = Whole{} - 1000;
    const Whole e = exponent > most ? most : exponent;
    return e < least ? Vec<double>{} : reinterpret_cast<Vec<double>>((e + 1023) << 52);
}

constexpr double kLeft = 1e-13;  // of a matrix of norm about 1, what a vector from both ends may leave

// D: numbers, or vectors of a matrix a lane.
template <class D>
struct TwoSided {
    using V = Vec<double>;
    static constexpr int kSteps = 8;  // between which both sides are scaled
    static constexpr int kLanesOf = kLanes<double>;
    const D *d, *e;                                        // no entry of e is nearly zero
    D *inverse, *diagonal, *before, *diagonal_up, *after;  // 1 / e[i], d[i] / e[i], e[i - 1] / e[i], and up from below
    int n;

    static int64_t coefficients(int n) { return int64_t{6} * n; }
    // What take(NS) works in.
    static int64_t scratch(int n, int sets) { return int64_t{sets} * (n + 2 * blocks_of(n)); }
    static int blocks_of(int n) { return (n + kSteps - 1) / kSteps; }

    // of (diagonal_of, beside), whose norm is about 1; memory: coefficients(size)
    TwoSided(const D* diagonal_of, const D* beside, int size, D* memory) : d(diagonal_of), n(size) {
        const D least = D{} + kEpsilon<double> / 16;
        D* kept = memory;
        inverse = memory + n;
        diagonal = memory + 2 * n;
        before = memory + 3 * n;
        diagonal_up = memory + 4 * n;
        after = memory + 5 * n;
        for (int i = 0; i < n - 1; ++i) {
            const D x = beside[i];
            kept[i] = (x < 0 ? -x : x) > least ? x : least;
            inverse[i] = 1.0 / kept[i];
        }
        e = kept;
        for (int i = 0; i < n - 1; ++i) {
            diagonal[i] = d[i] * inverse[i];
            before[i] = i > 0 ? kept[i - 1] * inverse[i] : D{};
            diagonal_up[i + 1] = d[i + 1] * inverse[i];
            after[i + 1] = i + 2 < n ? kept[i + 1] * inverse[i] : D{};
        }
    }

    // Unit vectors y, NS of n entries, `step` apart, for lambda[NS]; what each leaves of (T - lambda I) y.
    template <int NS>
    void take(const V* lambda, V* y, int64_t step, V* memory, V* residual) const {
        const int blocks = blocks_of(n);
        V* down = memory;                                                    // [n, NS]
        Whole* raised = reinterpret_cast<Whole*>(memory + int64_t{NS} * n);  // [blocks, NS], powers of two of y
        Whole* lowered = raised + int64_t{NS} * blocks;                      // and of down
        V now[NS], last[NS];
        Whole power[NS], best[NS], place[NS], place_power[NS];
        const auto scale = [&](int s) {
            constexpr int64_t kExponent = int64_t{0x7ff} << 52, kTwice = int64_t{0x7fe} << 52;
            const V most = vmax<double>(vabs<double>(now[s]), vabs<double>(last[s]));
            const Whole exponent = reinterpret_cast<Whole>(most) & kExponent;
            const V factor = reinterpret_cast<V>(kTwice - exponent);
            now[s] *= factor;
            last[s] *= factor;
            power[s] += (exponent >> 52) - 1023;
        };
        for (int s = 0; s < NS; ++s) {
            now[s] = splat(1.0);
            last[s] = V{};
            power[s] = Whole{};
        }
        for (int b = 0; b < blocks; ++b) {
            const int end = (b + 1) * kSteps < n ? (b + 1) * kSteps : n;
            for (int s = 0; s < NS; ++s) lowered[b * NS + s] = power[s];
            for (int k = b * kSteps; k < end; ++k) {  // from the last row up
                const int i = n - 1 - k;
                for (int s = 0; s < NS; ++s) down[i * NS + s] = now[s];
                if (i == 0) break;
                for (int s = 0; s < NS; ++s) {
                    const V next = (lambda[s] * inverse[i - 1] - diagonal_up[i]) * now[s] - after[i] * last[s];
                    last[s] = now[s];
                    now[s] = next;
                }
            }
            for (int s = 0; s < NS; ++s) scale(s);
        }
        for (int s = 0; s < NS; ++s) {
            now[s] = splat(1.0);
            last[s] = V{};
            power[s] = place[s] = place_power[s] = Whole{};
            best[s] = Whole{} - (int64_t{1} << 62);
        }
        for (int b = 0; b < blocks; ++b) {
            const int end = (b + 1) * kSteps < n ? (b + 1) * kSteps : n;
            for (int s = 0; s < NS; ++s) raised[b * NS + s] = power[s];
            for (int i = b * kSteps; i < end; ++i) {
                const int other = (n - 1 - i) / kSteps;
                for (int s = 0; s < NS; ++s) {
                    y[s * step + i] = now[s];
                    const V both = vabs<double>(now[s] * down[i * NS + s]);
                    // Its exponent and the first bits behind it, above and below bit 40.
                    const Whole size = reinterpret_cast<Whole>(reinterpret_cast<Bits>(both) >> 12) +
                                       ((power[s] + lowered[other * NS + s]) << 40);
                    const auto larger = size > best[s];
                    place[s] = larger ? Whole{} + i : place[s];
                    best[s] = larger ? size : best[s];
                }
                if (i == n - 1) break;
                for (int s = 0; s < NS; ++s) {
                    const V next = (lambda[s] * inverse[i] - diagonal[i]) * now[s] - before[i] * last[s];
                    last[s] = now[s];
                    now[s] = next;
                }
            }
            for (int s = 0; s < NS; ++s) scale(s);
        }
        for (int s = 0; s < NS; ++s) {
            V* own = y + s * step;
            V from_above, from_below;
            Whole above, below;
            for (int lane = 0; lane < kLanesOf; ++lane) {
                const int64_t r = place[s][lane], b = r / kSteps, other = (n - 1 - r) / kSteps;
                from_above[lane] = own[r][lane];
                from_below[lane] = down[r * NS + s][lane];
                above[lane] = raised[b * NS + s][lane];
                below[lane] = lowered[other * NS + s][lane];
            }
            from_above = 1.0 / from_above;
            from_below = 1.0 / from_below;
            V sums{}, up_factor{}, down_factor{};
            for (int i = 0; i < n; ++i) {
                if (i % kSteps == 0) up_factor = from_above * power_of_two(raised[i / kSteps * NS + s] - above);
                if (i == 0 || (n - i) % kSteps == 0)
                    down_factor = from_below * power_of_two(lowered[(n - 1 - i) / kSteps * NS + s] - below);
                const V x = Whole{} + i <= place[s] ? own[i] * up_factor : down[i * NS + s] * down_factor;
                own[i] = x;
                sums += x * x;
            }
            const V inverse_length = 1.0 / vsqrt<double>(sums);
            for (int i = 0; i < n; ++i) own[i] *= inverse_length;
            for (int lane = 0; lane < kLanesOf; ++lane) {
                const int64_t r = place[s][lane];
                const double left = r > 0 ? of(e[r - 1], lane) * own[r - 1][lane] : 0,
                             right = r + 1 < n ? of(e[r], lane) * own[r + 1][lane] : 0;
                residual[s][lane] = __builtin_fabs((of(d[r], lane) - lambda[s][lane]) * own[r][lane] + left + right);
            }
        }
    }

private:
    static double of(double x, int) { return x; }
    static double of(V x, int lane) { return x[lane]; }
};

}  // namespace
}  // namespace tsm::TSM_LEVEL
