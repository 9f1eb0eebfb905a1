// TensorLy's tucker, one block an item: HOSVD start, Gauss-Seidel sweeps, every item stopping on its own. Where one
// mode is larger than the product of the others (`big`), X is read once into the Gram matrix G of the others
// (mode_gram), and T = X_(big)^T A_big stands in for X until A_big itself is written.
#include "cuda/parts/hooi_memory.cuh"

namespace tsm::cuda {
namespace {

// Eigenvalues below this part of the first come with vectors whose images lack more of orthonormality than is let stand
// in results in float or double: about 1e-15 over it, squared sums of the first column over those of the last.
constexpr double kWeak = 1e-7, kWeakWide = 3e-3;

// ---- an orthonormal set from columns that are orthogonal but for rounding, longest first ----
__device__ __forceinline__ double dot(const Block& block, const double* a, int rows, int r, int j, int k) {
    double sum = 0;
    for (int i = block.rank(); i < rows; i += block.size()) sum += a[i * r + j] * a[i * r + k];
    return block.sum(sum);
}
// Column k becomes what is left of it beside the columns before it, at unit length, from a length of `before`; false
// where no more than `least` is left.
__device__ __noinline__ bool make_orthogonal(Block block, double* a, int rows, int r, int k, double before,
                                             double least) {
    const auto each = [&](auto visit) {
        for (int i = block.rank(); i < rows; i += block.size()) visit(a + i * r);
        block.sync();
    };
    for (int pass = 0; pass < 3; ++pass) {
        for (int j = 0; j < k; ++j) {
            const double share = dot(block, a, rows, r, j, k);
            each([&](double* row) { row[k] -= share * row[j]; });
        }
        const double length = sqrt(dot(block, a, rows, r, k, k));
        if (pass == 0 && !(length > least)) return false;
        each([&](double* row) { row[k] /= length; });
        if (pass == 0 && length > 0.9 * before) return true;  // hardly anything was taken out
    }
    return true;
}
__device__ __forceinline__ double least_of(int rows) {
    return 0.05 / sqrt(static_cast<double>(rows));
}
// Column k becomes the first column of the identity that completes those before it.
__device__ __noinline__ void put_unit(Block block, double* a, int rows, int r, int k) {
    for (int unit = 0; unit < rows; ++unit) {
        for (int i = block.rank(); i < rows; i += block.size()) a[i * r + k] = i == unit ? 1 : 0;
        block.sync();
        if (make_orthogonal(block, a, rows, r, k, 1, least_of(rows))) break;
    }
}
// Column k, which is weak, is made orthogonal anew.
__device__ __noinline__ void mend(Block block, double* a, int rows, int r, int k, double first) {
    const double length = sqrt(dot(block, a, rows, r, k, k));
    if (length > 1e-12 * first && make_orthogonal(block, a, rows, r, k, length, least_of(rows) * length)) return;
    put_unit(block, a, rows, r, k);
}

// ON_CHIP: feature maps [C, H, W] with C > H W and a factor for each mode; all but A_1 is in shared memory.
template <bool ON_CHIP>
struct Item {
    const HooiPlan& plan;
    const HooiMemory& memory;
    const HooiStart& given;
    const Tensor& x;               // strides of an item
    const void* data;              // of this one
    const double* gram;            // [S, S]
    double *small, *large, *tile;  // `tile`: kTileBytes, for passes over X
    const Block block;
    double weak;     // kWeak or kWeakWide
    int64_t number;  // of the item
    double norm2 = 0;

    // ---- sizes, 32 bits wide: a division of 64 costs more than the sum that it is for ----
    __device__ __forceinline__ int order() const { return ON_CHIP ? 3 : plan.order; }
    __device__ __forceinline__ int big() const { return ON_CHIP ? 0 : plan.big; }
    __device__ __forceinline__ bool has_big() const { return ON_CHIP || plan.big >= 0; }
    __device__ __forceinline__ bool kept(int m) const { return !ON_CHIP && plan.kept[m]; }
    __device__ __forceinline__ int size(int m) const { return static_cast<int>(plan.shape[m]); }
    __device__ __forceinline__ int rank(int m) const { return static_cast<int>(plan.rank[m]); }
    __device__ __forceinline__ int big_size() const { return size(big()); }
    __device__ __forceinline__ int big_rank() const { return has_big() ? rank(big()) : 1; }
    // Product of f(i) over the modes [first, last) but `big` and `except`.
    template <class Of>
    __device__ __forceinline__ int over(int first, int last, int except, Of of) const {
        int n = 1;
#pragma unroll
        for (int i = 0; i < (ON_CHIP ? 3 : kMaxOrder); ++i)
            if (i >= first && i < last && i != big() && i != except) n *= of(i);
        return n;
    }
    __device__ __forceinline__ int others_size() const {
        return over(0, order(), -1, [&](int i) { return size(i); });
    }
    __device__ __forceinline__ int others_rank() const {
        return over(0, order(), -1, [&](int i) { return rank(i); });
    }
    __device__ __forceinline__ int core_size() const { return big_rank() * others_rank(); }

    // ---- arrays ----
    __device__ __forceinline__ double* at(int64_t offset) const { return small + static_cast<int>(offset); }
    __device__ __forceinline__ double* factor(int m) const { return small + static_cast<int>(memory.factor[m]); }
    __device__ __forceinline__ double* spare(int i) const {
        return has_big() ? at(memory.spare[i]) : large + memory.spare[i];
    }
    __device__ __forceinline__ double* lambda() const { return at(memory.lambda); }
    __device__ __forceinline__ double* entries() const { return at(memory.entries); }
    __device__ __forceinline__ double* vectors() const { return at(memory.vectors); }
    __device__ __forceinline__ double* responses() const { return at(memory.responses); }

    template <class Visit>
    __device__ __forceinline__ void each(int count, Visit visit) const {
        for (int i = block.rank(); i < count; i += block.size()) visit(i);
        block.sync();
    }

    // ---- products ----
    // out [outer, r, inner] = from [outer, size, inner] times a [size, r], or a [r, size] where TURNED
    template <bool TURNED>
    __device__ __forceinline__ void product(const double* from, int outer, int size, int inner, const double* a, int r,
                                            double* out) const {
        const unsigned ranks = static_cast<unsigned>(r), rest = static_cast<unsigned>(inner);
        each(outer * r * inner, [&](int entry) {
            const unsigned i = static_cast<unsigned>(entry), row = i / rest, in = i - row * rest, o = row / ranks,
                           k = row - o * ranks;
            const double* u = from + static_cast<int>(o) * size * inner + static_cast<int>(in);
            const double* v = TURNED ? a + static_cast<int>(k) * size : a + k;
            double sum = 0;
#pragma unroll 4
            for (int j = 0; j < size; ++j, u += inner, v += TURNED ? 1 : r) sum += *u * *v;
            out[entry] = sum;
        });
    }
    // Every mode but `big` and `except` of from [lead, I.. (R.. where done), tail] times its factor; returns where.
    template <bool TURNED>
    __device__ __forceinline__ const double* project(const double* from, int lead, int tail, int except) const {
        const auto before = [&](int i) { return TURNED ? rank(i) : size(i); };
        const auto after = [&](int i) { return TURNED ? size(i) : rank(i); };
        int turn = 0;
#pragma unroll
        for (int m = 0; m < (ON_CHIP ? 3 : kMaxOrder); ++m) {
            if (m >= order() || m == big() || m == except || kept(m)) continue;
            const auto whole = [&](int i) { return i == except; };
            const int outer = lead * over(0, m, -1, [&](int i) { return whole(i) ? size(i) : after(i); }),
                      inner = tail * over(m + 1, order(), -1, [&](int i) { return whole(i) ? size(i) : before(i); });
            double* to = spare(turn);
            product<TURNED>(from, outer, before(m), inner, factor(m), after(m), to);
            from = to;
            turn ^= 1;
        }
        return from;
    }
    // Where fibre k of mode `mode` starts in X, and entries of X.
    __device__ __forceinline__ int64_t fibre_start(int mode, int k) const {
        if (ON_CHIP && mode == 0 && x.stride[1] == plan.shape[2] * x.stride[2]) return k * x.stride[2];
        int64_t offset = 0;
#pragma unroll
        for (int m = (ON_CHIP ? 3 : kMaxOrder) - 1; m >= 0; --m) {
            if (m >= order() || m == mode) continue;
            const int rest = k / size(m);
            offset += int64_t{k - rest * size(m)} * x.stride[m];
            k = rest;
        }
        return offset;
    }
    __device__ __forceinline__ double entry(int64_t offset) const { return read(data, x.dtype, offset); }
    __device__ __forceinline__ int fibres(int mode) const {
        return over(0, order(), mode, [&](int i) { return size(i); }) * (mode == big() || !has_big() ? 1 : big_size());
    }
    // out(fibre, k) of X_(mode)^T times a [I_mode, r]; by 64 x 64 tiles
    template <class Out>
    __device__ __forceinline__ void multiply_fibres(int mode, const double* a, int r, Out out) const {
        const int n = size(mode), count = fibres(mode);
        const int64_t step = x.stride[mode];
        for (int first = 0; first < count; first += kTile)
            for (int column = 0; column < r; column += kTile) {
                Tile result;
                multiply_tile(
                    result, n, step == 1,
                    [&](int64_t k, int i) {
                        return first + i < count ? entry(fibre_start(mode, first + i) + k * step) : 0.0;
                    },
                    false, [&](int64_t k, int j) { return column + j < r ? a[k * r + column + j] : 0.0; }, tile);
                result.each([&](int i, int j, double value) {
                    if (first + i < count && column + j < r) out(first + i, column + j, value);
                });
            }
        block.sync();
    }
    // X times the factors of every mode but `except`, from X itself. The first product reads X.
    __device__ __forceinline__ const double* project_x(int except) const {
        int m = 0;
        while (m < order() && (m == except || kept(m))) ++m;
        if (m == order()) return copy_x();
        int inner = 1;
        for (int i = m + 1; i < order(); ++i) inner *= size(i);
        const int r = rank(m);
        double* first = spare(1);
        multiply_fibres(m, factor(m), r, [&](int fibre, int k, double value) {
            const int outer = fibre / inner;
            first[(outer * r + k) * inner + fibre - outer * inner] = value;
        });
        const double* from = first;
        int turn = 0;
        for (int n = 0; n < order(); ++n) {
            if (n == m || n == except || kept(n)) continue;
            int outer = 1, rest = 1;
            for (int i = 0; i < n; ++i) outer *= i == except ? size(i) : rank(i);
            for (int i = n + 1; i < order(); ++i) rest *= i == m ? rank(i) : size(i);
            product<false>(from, outer, size(n), rest, factor(n), rank(n), spare(turn));
            from = spare(turn);
            turn ^= 1;
        }
        return from;
    }
    __device__ __forceinline__ const double* copy_x() const {
        double* to = spare(0);
        each(static_cast<int>(plan.elements()), [&](int i) { to[i] = entry(fibre_start(-1, i)); });
        return to;
    }

    // ---- eigenproblems ----
    // Leading `count` eigenpairs of g [n, n] into lambda and out [n, count]. `warm`: from the basis of the last problem
    // of this mode, which was of the same size.
    __device__ __forceinline__ void leading(int m, bool warm, int n, int count, const double* g, double* out) const {
        double* found = lambda();
        if (n <= kJacobi) {
            const JacobiMemory own{at(memory.matrix), entries(), at(memory.basis[m]), at(memory.eigen)};
            solve_small(own, n, count, warm, block, g, found, out);
            return;
        }
        solve(
            EigenMemory<double>(at(memory.matrix), at(memory.eigen), n), n, count, block,
            [&](int i, int j) { return g[i * n + j]; }, [&](int j, double value) { found[j] = value; },
            [&](int i, int j, double value) { out[i * count + j] = value; });
    }
    __device__ __forceinline__ void take_start(int m) const {
        const double* from = given.factors[m] + number * given.stride[m];
        double* a = factor(m);
        each(size(m) * rank(m), [&](int i) { a[i] = from[i]; });
    }
    // Factor m: its start from the leading left singular vectors of the unfolding of X itself, or its update.
    __device__ __forceinline__ void move(int m, bool starts, bool warm) const {
        const bool is_big = has_big() && m == big(), left = !is_big && (starts || plan.left_side(m));
        Projection p{};
        const double* g = entries();
        int n, count = rank(m);
        double* out = vectors();
        if (is_big) {
            n = starts ? others_size() : others_rank();
            if (starts)
                copy_gram();
            else
                g = project_gram();
            if (starts) out = at(memory.weights);
        } else {
            if (!starts) p = projection(m);
            n = left ? size(m) : p.columns();
            count = left ? rank(m) : static_cast<int>(plan.found(m));
            if (left) out = factor(m);
            if (starts)
                gram_of_start(m);
            else if (left)
                gram_of_rows(p);
            else
                gram_of_columns(p);
        }
        leading(m, warm, n, count, g, out);
        if (is_big) {
            starts ? respond(gram, n, out) : respond(at(memory.work), n, out);
            if (!starts) put_weights();
        } else if (!left) {
            put_factor(m, p, count);
        } else if (plan.sign_v) {
            starts ? point_fibres_up(m) : point_up(m, p);
        }
    }

    // ---- starts ----
    __device__ __forceinline__ void copy_gram() const {
        const int s = others_size();
        double* to = entries();
        each(s * s, [&](int i) { to[i] = gram[i]; });
    }
    __device__ __forceinline__ void gram_of_start(int m) const {
        const int n = size(m);
        double* to = entries();
        if (!has_big()) {
            gram_of_x(m);
            return;
        }
        // a partial trace of G
        const auto sizes = [&](int i) { return size(i); };
        const int outer = over(0, m, -1, sizes), inner = over(m + 1, order(), -1, sizes), s = outer * n * inner;
        each(n * n, [&](int at) {
            const int i = at / n, j = at - i * n;
            double sum = 0;
            for (int o = 0; o < outer; ++o)
                for (int k = 0; k < inner; ++k) sum += gram[((o * n + i) * inner + k) * s + (o * n + j) * inner + k];
            to[at] = sum;
        });
    }
    __device__ __forceinline__ void gram_of_x(int m) const {
        const int n = size(m), count = fibres(m);
        const int64_t step = x.stride[m];
        double* to = entries();
        for (int row = 0; row < n; row += kTile)
            for (int column = row; column < n; column += kTile) {
                Tile result;
                const auto of = [&](int first) {
                    return [=](int64_t k, int i) {
                        return first + i < n ? entry(fibre_start(m, static_cast<int>(k)) + (first + i) * step) : 0.0;
                    };
                };
                multiply_tile(result, count, step != 1, of(row), step != 1, of(column), tile);
                result.each([&](int i, int j, double value) {
                    if (row + i <= column + j && column + j < n)
                        to[(row + i) * n + column + j] = to[(column + j) * n + row + i] = value;
                });
            }
        block.sync();
    }
    // Signs of factor m by the entry of largest magnitude of X_(m)^T a_k.
    __device__ __forceinline__ void point_fibres_up(int m) const {
        const int n = size(m), r = rank(m);
        double* a = factor(m);
        sign_columns(a, n, r, fibres(m), [&](int k, int i) {
            double sum = 0;
            const int64_t start = fibre_start(m, i);
            for (int j = 0; j < n; ++j) sum += entry(start + j * x.stride[m]) * a[j * r + k];
            return sum;
        });
    }
    // Makes the entry of largest magnitude, the first on ties, of entry(k, 0..count) positive for every column k of a:
    // a warp a column.
    template <class Entry>
    __device__ __forceinline__ void sign_columns(double* a, int rows, int r, int count, Entry entry) const {
        double* sign = at(memory.sign);
        const Warp warp;
        for (int k = warp_of_thread(); k < r; k += kTileThreads / 32) {
            double most = 0, value = 0, where = 0;
            for (int i = warp.rank(); i < count; i += 32) {
                const double e = entry(k, i);
                if (fabs(e) > most) {
                    most = fabs(e);
                    value = e;
                    where = static_cast<double>(i);
                }
            }
            const double largest = warp.max(most), first = warp.max(most == largest ? -where : -1e300),
                         negative = warp.max(most == largest && -where == first && value < 0 ? 1.0 : 0.0);
            if (warp.rank() == 0) sign[k] = negative > 0 ? -1 : 1;
        }
        block.sync();
        each(rows * r, [&](int i) { a[i] *= sign[i % r]; });
    }

    // ---- updates ----
    // M = P^T G P, P the Kronecker product of the other factors, and G P into `work`
    __device__ __forceinline__ const double* project_gram() const {
        const int s = others_size(), rho = others_rank();
        const double* gp = project<false>(gram, s, 1, -1);  // [S, rho]
        double* work = at(memory.work);
        each(s * rho, [&](int i) { work[i] = gp[i]; });
        return project<false>(work, 1, rho, -1);  // [rho, rho]
    }
    // weights = P V / sigma
    __device__ __forceinline__ void put_weights() const {
        const int r = big_rank();
        const double* pv = project<true>(vectors(), 1, r, -1);  // [S, R]
        double* weights = at(memory.weights);
        each(others_size() * r, [&](int i) { weights[i] = pv[i]; });
    }
    // The eigenvectors v [depth, R] over sigma, and T = g v for g [S, depth]. A sigma that is lost in the rounding of g
    // counts as the least that is not.
    __device__ __forceinline__ void respond(const double* g, int depth, double* v) const {
        const int s = others_size(), r = big_rank();
        const double* found = lambda();
        double* kept = at(memory.lambda_big);
        each(r, [&](int k) { kept[k] = found[k]; });
        each(depth * r, [&](int i) {
            const double counted = fmax(fabs(found[i % r]), 1e-15 * static_cast<double>(s) * found[0]);
            v[i] = counted > 0 ? v[i] / sqrt(counted) : 0;  // a start may miss X altogether
        });
        product<false>(g, s, depth, 1, v, r, responses());
    }
    // Y [outer, size, inner], the projection on every other factor of the mode in the middle.
    struct Projection {
        const double* y;
        int outer, size, inner;
        __device__ __forceinline__ int columns() const { return outer * inner; }
        // Where column c of the unfolding starts; its entries are `inner` apart.
        __device__ __forceinline__ const double* column(int c) const {
            return y + c / inner * size * inner + c % inner;
        }
    };
    __device__ __forceinline__ Projection projection(int m) const {
        const auto ranks = [&](int i) { return rank(i); };
        Projection p{nullptr, over(0, m, -1, ranks), size(m), big_rank() * over(m + 1, order(), -1, ranks)};
        p.y = has_big() ? project<false>(responses(), 1, big_rank(), m) : project_x(m);
        return p;
    }
    // Y_(m) Y_(m)^T, or Y_(m)^T Y_(m), into `entries`
    __device__ __forceinline__ void gram_of_rows(Projection p) const {
        double* to = entries();
        each(p.size * p.size, [&](int at) {
            const int i = at / p.size, j = at - i * p.size;
            const double *row = p.y + i * p.inner, *other = p.y + j * p.inner;
            double sum = 0;
            for (int o = 0; o < p.outer; ++o, row += p.size * p.inner, other += p.size * p.inner)
                for (int k = 0; k < p.inner; ++k) sum += row[k] * other[k];
            to[at] = sum;
        });
    }
    __device__ __forceinline__ void gram_of_columns(Projection p) const {
        const int n = p.columns();
        double* to = entries();
        each(n * n, [&](int at) {
            const int i = at / n, j = at - i * n;
            const double *u = p.column(i), *v = p.column(j);
            double sum = 0;
            for (int k = 0; k < p.size; ++k) sum += u[k * p.inner] * v[k * p.inner];
            to[at] = sum;
        });
    }
    __device__ __forceinline__ void point_up(int m, Projection p) const {
        const int r = rank(m);
        double* a = factor(m);
        sign_columns(a, p.size, r, p.columns(), [&](int k, int c) {
            const double* u = p.column(c);
            double sum = 0;
            for (int i = 0; i < p.size; ++i) sum += u[i * p.inner] * a[i * r + k];
            return sum;
        });
    }
    // The factor from the right singular vectors, and what it is padded with.
    __device__ __forceinline__ void put_factor(int m, Projection p, int found) const {
        const int n = size(m), r = rank(m);
        const double *padding = given.padding + number * given.padding_stride, *v = vectors();
        double* a = factor(m);
        each(n * r, [&](int at) {
            const int i = at / r, k = at - i * r;
            double sum = 0;
            for (int c = 0; k < found && c < p.columns(); ++c) sum += p.column(c)[i * p.inner] * v[c * found + k];
            a[at] = k < found ? sum : padding[i * (r - found) + k - found];
        });
        orthonormalize(a, n, r, found, lambda());
        for (int k = found; k < r; ++k) {
            const double before = sqrt(dot(block, a, n, r, k, k));
            if (!make_orthogonal(block, a, n, r, k, before, 1e-10 * before)) put_unit(block, a, n, r, k);
        }
        const bool by_v = plan.sign_v;
        if (!by_v || found < r)
            sign_columns(a, n, r, n, [&](int k, int i) { return by_v && k < found ? 1.0 : a[i * r + k]; });
    }
    // The first `count` columns of a [rows, r]: those whose eigenvalue is weak are made orthogonal anew.
    __device__ __forceinline__ void orthonormalize(double* a, int rows, int r, int count, const double* values) const {
        double* length = at(memory.sign);
        for (int k = warp_of_thread(); k < count; k += kTileThreads / 32) {
            double sum = 0;
            for (int i = lane_of_thread(); i < rows; i += 32) sum += a[i * r + k] * a[i * r + k];
            sum = warp_sum(sum);
            if (lane_of_thread() == 0) length[k] = sqrt(sum);
        }
        block.sync();
        const double first = length[0];
        const auto strong = [&](int k) { return values[k] > weak * values[0] && length[k] > 1e-4 * first; };
        each(rows * r, [&](int i) {
            const int k = i % r;
            if (k < count && strong(k)) a[i] /= length[k];
        });
        for (int k = 0; k < count; ++k)
            if (!strong(k)) mend(block, a, rows, r, k, first);
        block.sync();
    }

    // ---- the core, and the error ----
    // [R_.., R_big last] back to its place
    __device__ __forceinline__ void contract() const {
        const double* y = has_big() ? project<false>(responses(), 1, big_rank(), -1) : project_x(-1);
        double* core = at(memory.core);
        int inner = 1;
        const int r = big_rank();
        if (has_big()) inner = over(big() + 1, order(), -1, [&](int i) { return rank(i); });
        each(core_size(), [&](int i) {
            const int row = i / inner, in = i - row * inner, o = row / r, k = row - o * r;
            core[i] = y[(o * inner + in) * r + k];
        });
    }
    __device__ __forceinline__ double error() const {
        const double* core = at(memory.core);
        double sum = 0;
        for (int i = block.rank(); i < core_size(); i += block.size()) sum += core[i] * core[i];
        return sqrt(fabs(norm2 - block.sum(sum))) / sqrt(norm2);
    }
    // out [I_big, R] = X_(big) weights, a warp 16 rows and columns at a time. Entries of X come eight a thread at once:
    // they are what it waits for.
    template <class In>
    __device__ __forceinline__ void multiply_rows(const In* from, double* out) const {
        constexpr int kAtOnce = 4, kFragments = 2;
        const int m = big(), rows = size(m), s = others_size(), r = rank(m), lane = lane_of_thread();
        const double* weights = at(memory.weights);
        const bool bfloat = x.dtype == DType::bf16;
        for (int row = 16 * warp_of_thread() + lane / 4; row - lane / 4 < rows; row += kTileThreads / 2)
            for (int column = lane / 4; column - lane / 4 < r; column += 8 * kFragments) {
                double c[kFragments][4] = {};
                for (int first = lane % 4; first - lane % 4 < s; first += 4 * kAtOnce) {
                    double u[kAtOnce][2];
#pragma unroll
                    for (int k = 0; k < kAtOnce; ++k) {
                        const int p = first + 4 * k;
                        const int64_t offset = p < s ? fibre_start(m, p) : 0;
#pragma unroll
                        for (int half = 0; half < 2; ++half) {
                            const int i = row + 8 * half;
                            u[k][half] = p < s && i < rows ? widen(from[offset + i * x.stride[m]], bfloat) : 0.0;
                        }
                    }
#pragma unroll
                    for (int k = 0; k < kAtOnce; ++k)
#pragma unroll
                        for (int f = 0; f < kFragments; ++f) {
                            const int p = first + 4 * k, j = column + 8 * f;
                            multiply_add(c[f], u[k][0], u[k][1], p < s && j < r ? weights[p * r + j] : 0.0);
                        }
                }
#pragma unroll
                for (int f = 0; f < kFragments; ++f)
#pragma unroll
                    for (int q = 0; q < 4; ++q) {
                        const int i = row + q / 2 * 8, j = column - lane / 4 + 8 * f + lane % 4 * 2 + q % 2;
                        if (i < rows && j < r) out[i * r + j] = c[f][q];
                    }
            }
        block.sync();
    }
    // A_big = X_(big) weights with its signs, and T and the core with it.
    __device__ __forceinline__ void explicit_factor() const {
        const int m = big(), rows = size(m), s = others_size(), r = rank(m);
        double *a = large, *t = responses();
        const double* values = at(memory.lambda_big);
        if (x.dtype == DType::f32)
            multiply_rows(static_cast<const float*>(data), a);
        else if (x.dtype == DType::f64)
            multiply_rows(static_cast<const double*>(data), a);
        else
            multiply_rows(static_cast<const uint16_t*>(data), a);
        orthonormalize(a, rows, r, r, values);
        const bool mended = !(values[r - 1] > weak * values[0]);
        if (!plan.sign_v) {
            sign_columns(a, rows, r, rows, [&](int k, int i) { return a[i * r + k]; });
            const double* sign = at(memory.sign);
            each(s * r, [&](int i) { t[i] *= sign[i % r]; });
        }
        if (mended) multiply_fibres(m, a, r, [&](int i, int k, double v) { t[i * r + k] = v; });
        contract();
    }

    // ---- results ----
    __device__ __forceinline__ void copy(const Output& out, int64_t first, const double* from, int count) const {
        each(count, [&](int i) { write(out, first + i, from[i]); });
    }
    __device__ __forceinline__ void fill(const Output& out, int64_t first, int count, double value) const {
        each(count, [&](int i) { write(out, first + i, value); });
    }
    __device__ __forceinline__ int response_count(const HooiOutput& out) const {
        return has_big() && out.responses.data ? others_size() * big_rank() : 0;
    }
    __device__ __forceinline__ void put(const HooiOutput& out) const {
        const double* core = at(memory.core);
        const int count = core_size(), responded = response_count(out);
        copy(out.core, number * count, core, count);
        copy(out.responses, number * responded, responses(), responded);
#pragma unroll 1
        for (int m = 0; m < order(); ++m) {
            if (kept(m)) continue;
            const int r = rank(m), n = size(m) * r;
            copy(out.factors[m], number * n, has_big() && m == big() ? large : factor(m), n);
            int inner = 1;
            for (int i = m + 1; i < order(); ++i) inner *= rank(i);
            const int outer = count / inner / r;
            each(r, [&](int k) {
                double sum = 0;
                for (int o = 0; o < outer; ++o)
                    for (int i = 0; i < inner; ++i) {
                        const double value = core[(o * r + k) * inner + i];
                        sum += value * value;
                    }
                write(out.singular_values[m], number * r + k, sqrt(sum));
            });
        }
    }
    // Zeros, or NaN for an item that holds NaN or Inf.
    __device__ __forceinline__ void blank(const HooiOutput& out, bool finite) const {
        const double value = finite ? 0.0 : not_a_number();
        fill(out.core, number * core_size(), core_size(), value);
        const int responded = response_count(out);
        fill(out.responses, number * responded, responded, value);
#pragma unroll 1
        for (int m = 0; m < order(); ++m) {
            if (kept(m)) continue;
            const int r = rank(m), n = size(m) * r;
            fill(out.singular_values[m], number * r, r, value);
            each(n,
                 [&](int i) { write(out.factors[m], number * n + i, finite ? (i / r == i % r ? 1.0 : 0.0) : value); });
        }
    }
    __device__ __forceinline__ double squared_norm() const {
        double sum = 0;
        if (has_big()) {
            const int s = others_size();
            for (int i = block.rank(); i < s; i += block.size()) sum += gram[i * s + i];
        } else {
            for (int i = block.rank(); i < static_cast<int>(plan.elements()); i += block.size()) {
                const double value = entry(fibre_start(-1, i));
                sum += value * value;
            }
        }
        return block.sum(sum);
    }
    __device__ __forceinline__ void run(const HooiOutput& out) {
        norm2 = squared_norm();
        const bool finite = is_finite(norm2), zero = norm2 == 0;
        double* errors = out.errors + number * plan.n_iter_max;
        each(plan.n_iter_max, [&](int i) { errors[i] = zero && i == 0 ? 0.0 : not_a_number(); });
        int sweeps = -1;  // the start
        bool converged = zero;
        if (finite && !zero) {
            double before = 0;
#pragma unroll 1
            for (; sweeps < plan.n_iter_max && !converged; ++sweeps) {
#pragma unroll 1
                for (int m = 0; m < order(); ++m) {
                    const bool starts = sweeps < 0;
                    if (starts && plan.given && !kept(m) && m != big())
                        take_start(m);
                    else if (starts ? plan.starts(m) : plan.moves(sweeps, m))
                        move(m, starts, sweeps > 0 || (sweeps == 0 && plan.starts(m) && plan.left_side(m)));
                }
                if (sweeps < 0) continue;
                contract();
                const double now = error();
                if (block.rank() == 0) errors[sweeps] = now;
                converged = sweeps >= 2 && fabs(before - now) < plan.tol;
                before = now;
            }
            if (has_big()) explicit_factor();
            put(out);
        } else {
            blank(out, finite);
        }
        if (block.rank() != 0) return;
        out.n_sweeps[number] = zero ? 1 : sweeps < 0 ? 0 : sweeps;
        out.converged[number] = converged;
        out.finite[number] = finite;
    }
};

// Where an item's arrays lie, and how a block comes by its own.
struct Places {
    HooiMemory memory;
    bool shared, tiled;  // whether the small part fits shared memory; whether tiles have their own place there
    int64_t fixed;       // bytes of shared memory before the small part: for reductions, and tiles where `tiled`
    int64_t workspace;   // bytes an item
    int64_t bytes() const { return fixed + (shared ? 8 * memory.small_numbers : 0); }
};
Places places_of(const HooiPlan& plan) {
    const HooiMemory memory(plan);
    const auto fixed = [&](bool tiled) { return kBlockScratch * 8 + (tiled ? kTileBytes : 0); };
    const int64_t small = 8 * memory.small_numbers;
    const bool shared = fixed(plan.big < 0) + small <= 96 * 1024, tiled = !shared || plan.big < 0;
    return {memory, shared, tiled, fixed(tiled), 8 * memory.large_numbers + (shared ? 0 : small)};
}

// Block b: item b.
template <bool ON_CHIP>
__global__ void __launch_bounds__(kTileThreads, ON_CHIP ? 4 : 2)
    hooi_kernel(const __grid_constant__ TensorBatch x, const __grid_constant__ HooiPlan plan,
                const __grid_constant__ HooiStart start, const __grid_constant__ HooiOutput out,
                const __grid_constant__ Places places, const double* gram, char* workspace) {
    const int64_t item = blockIdx.x;
    double* shared = reinterpret_cast<double*>(shared_memory());
    double *large = reinterpret_cast<double*>(workspace + item * places.workspace), *small = shared + kBlockScratch,
           *tile = small;
    if (ON_CHIP) {
        tile = small + static_cast<int>(places.memory.spare[0]);
    } else {
        if (places.shared)
            small = shared + places.fixed / 8;
        else
            small = large + places.memory.large_numbers;
        if (!places.tiled) tile = small + places.memory.spare[0];
    }
    const int64_t s = plan.big >= 0 ? plan.others_size(plan.big) : 0;
    Item<ON_CHIP>{plan,
                  places.memory,
                  start,
                  x.first,
                  item_data(x.first.data, x.first.dtype, item * x.batch_stride),
                  gram + item * s * s,
                  small,
                  large,
                  tile,
                  Block{shared},
                  out.core.wide ? kWeakWide : kWeak,
                  item}
        .run(out);
}

}  // namespace

int64_t hooi_workspace(const HooiPlan& plan) {
    return places_of(plan).workspace;
}

void hooi(const TensorBatch& x, const HooiPlan& plan, const double* gram, const HooiStart& start, const HooiOutput& out,
          void* workspace, int64_t bytes, void* stream) {
    const Places places = places_of(plan);
    require_workspace(bytes, x.batch * places.workspace);
    if (plan.elements() > 0x7fffffff)
        throw std::invalid_argument("hooi: an item must have at most 2147483647 elements");
    const bool on_chip = places.shared && plan.order == 3 && plan.big == 0 && !plan.kept[1] && !plan.kept[2];
    launch(on_chip ? "hooi_kernel<true>" : "hooi_kernel<false>", on_chip ? hooi_kernel<true> : hooi_kernel<false>,
           x.batch, kTileThreads, places.bytes(), stream, x, plan, start, out, places, gram,
           static_cast<char*>(workspace));
}

}  // namespace tsm::cuda
