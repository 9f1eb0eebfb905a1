// TensorLy's tucker, one block an item: HOSVD start, Gauss-Seidel sweeps, every item stopping on its own. Where one
// mode is larger than the product of the others (`big`), X is read once into the Gram matrix G of the others
// (mode_gram), and T = X_(big)^T A_big stands in for X until A_big itself is written.
#include "cuda/parts/eigen.cuh"
#include "cuda/parts/hooi_memory.cuh"
#include "cuda/parts/multiply.cuh"

namespace tsm::cuda {
namespace {

// Eigenvalues below this part of the first come with vectors whose images lack more of orthonormality than is let stand
// in results in float or double: about 1e-15 over it, squared sums of the first column over those of the last.
constexpr double kWeak = 1e-7, kWeakWide = 3e-3;

struct Item {
    const HooiPlan& plan;
    const Block& block;
    Tensor x;            // strides of the item
    const double* gram;  // [S, S]
    HooiMemory at;
    double* tile;  // kTileBytes, for passes over X
    double weak;   // kWeak or kWeakWide
    const HooiStart& given;
    int64_t number;  // of the item
    double norm2 = 0;

    template <class Visit>
    __device__ __forceinline__ void each(int64_t count, Visit visit) const {
        for (int64_t i = block.rank(); i < count; i += block.size()) visit(i);
        block.sync();
    }

    // ---- products ----
    // out [outer, r, inner] = from [outer, size, inner] times a [size, r], or a [r, size] where TURNED
    template <bool TURNED>
    __device__ __noinline__ void product(const double* from, int64_t outer, int64_t size, int64_t inner,
                                         const double* a, int64_t r, double* out) const {
        // 32 bits: a division of 64 costs more than the sum that it is for.
        const unsigned ranks = static_cast<unsigned>(r), rest = static_cast<unsigned>(inner);
        const unsigned count = static_cast<unsigned>(outer) * ranks * rest;
        for (unsigned i = static_cast<unsigned>(block.rank()); i < count; i += static_cast<unsigned>(block.size())) {
            const unsigned row = i / rest, in = i - row * rest, o = row / ranks, k = row - o * ranks;
            const double* x = from + o * size * inner + in;
            const double* y = TURNED ? a + k * size : a + k;
            double sum = 0;
#pragma unroll 4
            for (int64_t j = 0; j < size; ++j, x += inner, y += TURNED ? 1 : r) sum += *x * *y;
            out[i] = sum;
        }
        block.sync();
    }
    // Every mode but `big` and `except` of from [lead, I.. (R.. where done), tail] times its factor; returns where.
    template <bool TURNED>
    __device__ __noinline__ const double* project(const double* from, int64_t lead, int64_t tail, int except) const {
        int turn = 0;
        for (int m = 0; m < plan.order; ++m) {
            if (m == plan.big || m == except || plan.kept[m]) continue;
            int64_t outer = lead, inner = tail;
            for (int i = 0; i < plan.order; ++i) {
                if (i == plan.big || i == m) continue;
                const int64_t before = TURNED ? plan.rank[i] : plan.shape[i],
                              after = TURNED ? plan.shape[i] : plan.rank[i];
                if (i < m)
                    outer *= i == except ? plan.shape[i] : after;
                else
                    inner *= i == except ? plan.shape[i] : before;
            }
            double* to = at.spare[turn];
            product<TURNED>(from, outer, TURNED ? plan.rank[m] : plan.shape[m], inner, at.factor[m],
                            TURNED ? plan.shape[m] : plan.rank[m], to);
            from = to;
            turn ^= 1;
        }
        return from;
    }
    // One operand of a product: entry (k, i) is entry first + i of fibre k, or the other way round (BY_FIBRE).
    struct Operand {
        const Fibres& f;
        int64_t first;
        bool by_fibre;
        __device__ __forceinline__ double at(int64_t k, int i) const {
            const int64_t other = first + i, fibre = by_fibre ? other : k, entry = by_fibre ? k : other;
            if (other >= (by_fibre ? f.count : f.n)) return 0;
            return read(f.data, f.dtype, fibre_offset(f, fibre) + entry * f.step);
        }
        __device__ bool along_k() const { return by_fibre == (f.step == 1); }
    };
    __device__ __noinline__ void multiply(Tile& result, int64_t depth, const Operand& a, const Operand& b) const {
        multiply_tile(
            result, depth, a.along_k(), [&](int64_t k, int i) { return a.at(k, i); }, b.along_k(),
            [&](int64_t k, int j) { return b.at(k, j); }, tile);
    }
    // A dense matrix [rows, columns] as fibres of its rows.
    __device__ static Fibres rows_of(const double* a, int64_t rows, int64_t columns) {
        Fibres f{a, DType::f64, columns, 1, rows, 1, {}, {}};
        f.shape[0] = rows;
        f.stride[0] = columns;
        return f;
    }
    // out(fibre, k) of X_(mode)^T times a [I_mode, r]; by 64 x 64 tiles
    template <class Out>
    __device__ void multiply_fibres(int mode, const double* a, int64_t r, Out out) const {
        const Fibres f = device_fibres(x, mode), columns = rows_of(a, f.n, r);
        for (int64_t first = 0; first < f.count; first += kTile)
            for (int64_t column = 0; column < r; column += kTile) {
                Tile result;
                multiply(result, f.n, Operand{f, first, true}, Operand{columns, column, false});
                result.each([&](int i, int j, double value) {
                    if (first + i < f.count && column + j < r) out(first + i, column + j, value);
                });
            }
        block.sync();
    }
    // X times the factors of every mode but `except`, from X itself. The first product reads X.
    __device__ __noinline__ const double* project_x(int except) const {
        int m = 0;
        while (m < plan.order && (m == except || plan.kept[m])) ++m;
        if (m == plan.order) return copy_x();
        int64_t inner = 1;
        for (int i = m + 1; i < plan.order; ++i) inner *= plan.shape[i];
        const int64_t r = plan.rank[m];
        double* first = at.spare[1];
        multiply_fibres(m, at.factor[m], r, [&](int64_t fibre, int64_t k, double value) {
            const int64_t outer = fibre / inner;
            first[(outer * r + k) * inner + fibre - outer * inner] = value;
        });
        const double* from = first;
        int turn = 0;
        for (int n = 0; n < plan.order; ++n) {
            if (n == m || n == except || plan.kept[n]) continue;
            int64_t outer = 1, rest = 1;
            for (int i = 0; i < n; ++i) outer *= i == except ? plan.shape[i] : plan.rank[i];
            for (int i = n + 1; i < plan.order; ++i) rest *= i == m ? plan.rank[i] : plan.shape[i];
            product<false>(from, outer, plan.shape[n], rest, at.factor[n], plan.rank[n], at.spare[turn]);
            from = at.spare[turn];
            turn ^= 1;
        }
        return from;
    }

    __device__ __noinline__ const double* copy_x() const {
        each(plan.elements(), [&](int64_t i) {
            int64_t rest = i, offset = 0;
            for (int m = plan.order - 1; m >= 0; --m) {
                offset += rest % plan.shape[m] * x.stride[m];
                rest /= plan.shape[m];
            }
            at.spare[0][i] = read(x.data, x.dtype, offset);
        });
        return at.spare[0];
    }

    // ---- eigenproblems ----
    // Leading `rank` eigenpairs of g [n, n] into at.lambda and out [n, rank]
    __device__ __noinline__ void leading(int64_t n, int64_t rank, const double* g, double* out) const {
        const int size = static_cast<int>(n), columns = static_cast<int>(rank);
        solve(
            EigenMemory<double>(at.matrix, at.eigen, size), size, columns, block,
            [&](int i, int j) { return g[i * size + j]; }, [&](int j, double lambda) { at.lambda[j] = lambda; },
            [&](int i, int j, double entry) { out[i * columns + j] = entry; });
    }
    // ---- the start: leading left singular vectors of every unfolding of X itself ----
    __device__ void start(int m) const {
        const int64_t size = plan.shape[m], r = plan.rank[m];
        if (m == plan.big) {
            const int64_t s = plan.others_size(m);
            leading(s, r, gram, at.weights);
            respond(gram, s, at.weights);
            return;
        }
        if (plan.big >= 0) {  // a partial trace of G
            int64_t outer = 1, inner = 1;
            for (int i = 0; i < m; ++i) outer *= i == plan.big ? 1 : plan.shape[i];
            for (int i = m + 1; i < plan.order; ++i) inner *= i == plan.big ? 1 : plan.shape[i];
            const int64_t s = outer * size * inner;
            each(size * size, [&](int64_t entry) {
                const int64_t i = entry / size, j = entry % size;
                double sum = 0;
                for (int64_t o = 0; o < outer; ++o)
                    for (int64_t k = 0; k < inner; ++k)
                        sum += gram[((o * size + i) * inner + k) * s + (o * size + j) * inner + k];
                at.entries[entry] = sum;
            });
        } else {
            gram_of_x(m);
        }
        leading(size, r, at.entries, at.factor[m]);
        if (plan.sign_v) point_fibres_up(m);
    }
    __device__ void take_start(int m) const {
        const double* from = given.factors[m] + number * given.stride[m];
        each(plan.shape[m] * plan.rank[m], [&](int64_t i) { at.factor[m][i] = from[i]; });
    }
    __device__ void gram_of_x(int m) const {
        const Fibres f = device_fibres(x, m);
        for (int64_t row = 0; row < f.n; row += kTile)
            for (int64_t column = row; column < f.n; column += kTile) {
                Tile result;
                multiply(result, f.count, Operand{f, row, false}, Operand{f, column, false});
                result.each([&](int i, int j, double value) {
                    if (row + i <= column + j && column + j < f.n)
                        at.entries[(row + i) * f.n + column + j] = at.entries[(column + j) * f.n + row + i] = value;
                });
            }
        block.sync();
    }
    // Signs of factor m by the entry of largest magnitude of X_(m)^T a_k.
    __device__ void point_fibres_up(int m) const {
        const Fibres f = device_fibres(x, m);
        const int64_t size = plan.shape[m], r = plan.rank[m];
        sign_columns(at.factor[m], size, r, f.count, [&](int64_t k, int64_t i) {
            double sum = 0;
            const int64_t start = fibre_offset(f, i);
            for (int64_t j = 0; j < size; ++j)
                sum += read(f.data, f.dtype, start + j * f.step) * at.factor[m][j * r + k];
            return sum;
        });
    }
    // Makes the entry of largest magnitude, the first on ties, of entry(k, 0..count) positive for every column k of a.
    template <class Entry>
    __device__ void sign_columns(double* a, int64_t rows, int64_t r, int64_t count, Entry entry) const {
        for (int64_t k = 0; k < r; ++k) {
            const double sign = column_sign(count, [&](int64_t i) { return entry(k, i); });
            if (block.rank() == 0) at.sign[k] = sign;
        }
        block.sync();
        each(rows * r, [&](int64_t i) { a[i] *= at.sign[i % r]; });
    }
    template <class Entry>
    __device__ double column_sign(int64_t count, Entry entry) const {
        double most = 0, value = 0, where = 0;
        for (int64_t i = block.rank(); i < count; i += block.size()) {
            const double e = entry(i);
            if (fabs(e) > most) {
                most = fabs(e);
                value = e;
                where = static_cast<double>(i);
            }
        }
        return sign_of_first(most, value, where);
    }
    // The sign of the first of the largest magnitudes, of which every thread brings its own first one.
    __device__ __noinline__ double sign_of_first(double most, double value, double where) const {
        const double largest = block.max(most), first = -block.max(most == largest ? -where : -1e300);
        return block.sum(most == largest && where == first && value < 0 ? 1.0 : 0.0) > 0 ? -1 : 1;
    }

    // ---- updates ----
    __device__ void update(int m) const { m == plan.big ? update_big() : update_small(m); }

    // M = P^T G P, P the Kronecker product of the other factors; weights = P V / sigma, T = G P V / sigma.
    __device__ void update_big() const {
        const int64_t s = plan.others_size(plan.big), rho = plan.others_rank(plan.big), r = plan.rank[plan.big];
        const double* gp = project<false>(gram, s, 1, -1);  // [S, rho]
        each(s * rho, [&](int64_t i) { at.work[i] = gp[i]; });
        const double* m = project<false>(at.work, 1, rho, -1);  // [rho, rho]
        leading(rho, r, m, at.vectors);
        respond(at.work, rho, at.vectors);
        const double* pv = project<true>(at.vectors, 1, r, -1);  // [S, R]
        each(s * r, [&](int64_t i) { at.weights[i] = pv[i]; });
    }
    // The eigenvectors v [depth, R] over sigma, and T = g v for g [S, depth]. A sigma that is lost in the rounding of g
    // counts as the least that is not.
    __device__ __noinline__ void respond(const double* g, int64_t depth, double* v) const {
        const int64_t s = plan.others_size(plan.big), r = plan.rank[plan.big];
        each(depth * r, [&](int64_t i) {
            const double counted = fmax(fabs(at.lambda[i % r]), 1e-15 * static_cast<double>(s) * at.lambda[0]);
            v[i] = counted > 0 ? v[i] / sqrt(counted) : 0;  // a start may miss X altogether
        });
        product<false>(g, s, depth, 1, v, r, at.responses);
        each(r, [&](int64_t k) { at.lambda_big[k] = at.lambda[k]; });
    }
    // Y [outer, size, inner], the projection on every other factor of the mode in the middle.
    struct Projection {
        const double* y;
        int64_t outer, size, inner;
        __device__ int64_t columns() const { return outer * inner; }
        // Where column c of the unfolding starts; its entries are `inner` apart.
        __device__ __forceinline__ const double* column(int64_t c) const {
            return y + c / inner * size * inner + c % inner;
        }
    };
    // Y_(m) Y_(m)^T, or Y_(m)^T Y_(m), into at.entries
    __device__ __noinline__ void gram_of_rows(Projection p) const {
        each(p.size * p.size, [&](int64_t entry) {
            const double *row = p.y + entry / p.size * p.inner, *other = p.y + entry % p.size * p.inner;
            double sum = 0;
            for (int64_t o = 0; o < p.outer; ++o, row += p.size * p.inner, other += p.size * p.inner)
                for (int64_t k = 0; k < p.inner; ++k) sum += row[k] * other[k];
            at.entries[entry] = sum;
        });
    }
    __device__ __noinline__ void gram_of_columns(Projection p) const {
        each(p.columns() * p.columns(), [&](int64_t entry) {
            const double *x = p.column(entry / p.columns()), *other = p.column(entry % p.columns());
            double sum = 0;
            for (int64_t i = 0; i < p.size; ++i) sum += x[i * p.inner] * other[i * p.inner];
            at.entries[entry] = sum;
        });
    }
    // Leading left vectors of Y_(m)
    __device__ void update_small(int m) const {
        const int64_t size = plan.shape[m], r = plan.rank[m];
        Projection p{nullptr, 1, size, plan.big >= 0 ? plan.rank[plan.big] : 1};
        for (int i = 0; i < plan.order; ++i) {
            if (i < m && i != plan.big) p.outer *= plan.rank[i];
            if (i > m && i != plan.big) p.inner *= plan.rank[i];
        }
        p.y = plan.big >= 0 ? project<false>(at.responses, 1, plan.rank[plan.big], m) : project_x(m);
        double* a = at.factor[m];
        if (plan.left_side(m)) {
            gram_of_rows(p);
            leading(size, r, at.entries, a);
            if (plan.sign_v)
                sign_columns(a, size, r, p.columns(), [&](int64_t k, int64_t c) {
                    const double* x = p.column(c);
                    double sum = 0;
                    for (int64_t i = 0; i < size; ++i) sum += x[i * p.inner] * a[i * r + k];
                    return sum;
                });
            return;
        }
        const int64_t found = plan.found(m);
        const double* padding = given.padding + number * given.padding_stride;
        gram_of_columns(p);
        leading(p.columns(), found, at.entries, at.vectors);
        each(size * r, [&](int64_t entry) {
            const int64_t i = entry / r, k = entry % r;
            double sum = 0;
            for (int64_t c = 0; k < found && c < p.columns(); ++c)
                sum += p.column(c)[i * p.inner] * at.vectors[c * found + k];
            a[entry] = k < found ? sum : padding[i * (r - found) + k - found];
        });
        orthonormalize(a, size, r, found, at.lambda);
        for (int64_t k = found; k < r; ++k) {
            const double before = sqrt(dot(a, size, r, k, k));
            if (!make_orthogonal(a, size, r, k, before, 1e-10 * before)) put_unit(a, size, r, k);
        }
        if (!plan.sign_v || found < r)
            sign_columns(a, size, r, size,
                         [&](int64_t k, int64_t i) { return plan.sign_v && k < found ? 1.0 : a[i * r + k]; });
    }

    // ---- an orthonormal set from columns that are orthogonal but for rounding, longest first ----
    __device__ double dot(const double* a, int64_t rows, int64_t r, int64_t j, int64_t k) const {
        double sum = 0;
        for (int64_t i = block.rank(); i < rows; i += block.size()) sum += a[i * r + j] * a[i * r + k];
        return block.sum(sum);
    }
    // Column k becomes what is left of it beside the columns before it, at unit length, from a length of `before`;
    // false where no more than `least` is left.
    __device__ __noinline__ bool make_orthogonal(double* a, int64_t rows, int64_t r, int64_t k, double before,
                                                 double least) const {
        for (int pass = 0; pass < 3; ++pass) {
            for (int64_t j = 0; j < k; ++j) {
                const double share = dot(a, rows, r, j, k);
                each(rows, [&](int64_t i) { a[i * r + k] -= share * a[i * r + j]; });
            }
            const double length = sqrt(dot(a, rows, r, k, k));
            if (pass == 0 && !(length > least)) return false;
            each(rows, [&](int64_t i) { a[i * r + k] /= length; });
            if (pass == 0 && length > 0.9 * before) return true;  // hardly anything was taken out
        }
        return true;
    }
    // Column k becomes the first column of the identity that completes those before it.
    __device__ __noinline__ void put_unit(double* a, int64_t rows, int64_t r, int64_t k) const {
        for (int64_t unit = 0; unit < rows; ++unit) {
            each(rows, [&](int64_t i) { a[i * r + k] = i == unit ? 1 : 0; });
            if (make_orthogonal(a, rows, r, k, 1, least_of(rows))) break;
        }
    }
    __device__ static double least_of(int64_t rows) { return 0.05 / sqrt(static_cast<double>(rows)); }
    // The first `count` columns of a [rows, r]: those whose eigenvalue is weak are made orthogonal anew.
    __device__ __noinline__ void orthonormalize(double* a, int64_t rows, int64_t r, int64_t count,
                                                const double* lambda) const {
        const double first = sqrt(dot(a, rows, r, 0, 0));
        for (int64_t k = 0; k < count; ++k) {
            const double length = sqrt(dot(a, rows, r, k, k));
            if (lambda[k] > weak * lambda[0] && length > 1e-4 * first) {
                each(rows, [&](int64_t i) { a[i * r + k] /= length; });
                continue;
            }
            if (length > 1e-12 * first && make_orthogonal(a, rows, r, k, length, least_of(rows) * length)) continue;
            put_unit(a, rows, r, k);
        }
    }

    // ---- the core, and the error ----
    // [R_.., R_big last] back to its place
    __device__ __noinline__ void contract() const {
        if (plan.big < 0) {
            const double* y = project_x(-1);
            each(plan.core_size(), [&](int64_t i) { at.core[i] = y[i]; });
            return;
        }
        const int64_t r = plan.rank[plan.big];
        const double* y = project<false>(at.responses, 1, r, -1);
        int64_t inner = 1;
        for (int i = plan.big + 1; i < plan.order; ++i) inner *= plan.rank[i];
        each(plan.core_size(), [&](int64_t i) {
            const int64_t in = i % inner, k = i / inner % r, o = i / inner / r;
            at.core[i] = y[(o * inner + in) * r + k];
        });
    }
    __device__ double error() const {
        double sum = 0;
        for (int64_t i = block.rank(); i < plan.core_size(); i += block.size()) sum += at.core[i] * at.core[i];
        return sqrt(fabs(norm2 - block.sum(sum))) / sqrt(norm2);
    }
    // A_big = X_(big) weights with its signs, and T and the core with it.
    __device__ void explicit_factor() const {
        const int64_t rows = plan.shape[plan.big], s = plan.others_size(plan.big), r = plan.rank[plan.big];
        double* a = at.factor[plan.big];
        const Fibres f = device_fibres(x, plan.big), weights = rows_of(at.weights, s, r);
        for (int64_t first = 0; first < rows; first += kTile)
            for (int64_t column = 0; column < r; column += kTile) {
                Tile result;
                multiply(result, s, Operand{f, first, false}, Operand{weights, column, false});
                result.each([&](int i, int j, double value) {
                    if (first + i < rows && column + j < r) a[(first + i) * r + column + j] = value;
                });
            }
        block.sync();
        orthonormalize(a, rows, r, r, at.lambda_big);
        const bool mended = !(at.lambda_big[r - 1] > weak * at.lambda_big[0]);
        if (!plan.sign_v) {
            sign_columns(a, rows, r, rows, [&](int64_t k, int64_t i) { return a[i * r + k]; });
            each(s * r, [&](int64_t i) { at.responses[i] *= at.sign[i % r]; });
        }
        if (mended)
            multiply_fibres(plan.big, a, r, [&](int64_t i, int64_t k, double v) { at.responses[i * r + k] = v; });
        contract();
    }

    // ---- results ----
    __device__ void copy(const Output& out, int64_t first, const double* from, int64_t count) const {
        each(count, [&](int64_t i) { write(out, first + i, from[i]); });
    }
    __device__ void fill(const Output& out, int64_t first, int64_t count, double value) const {
        each(count, [&](int64_t i) { write(out, first + i, value); });
    }
    __device__ void put(const HooiOutput& out, int64_t item) const {
        const int64_t core = plan.core_size();
        copy(out.core, item * core, at.core, core);
        if (plan.big >= 0 && out.responses.data) {
            const int64_t size = plan.others_size(plan.big) * plan.rank[plan.big];
            copy(out.responses, item * size, at.responses, size);
        }
        for (int m = 0; m < plan.order; ++m) {
            if (plan.kept[m]) continue;
            const int64_t r = plan.rank[m], size = plan.shape[m] * r;
            copy(out.factors[m], item * size, at.factor[m], size);
            int64_t inner = 1;
            for (int i = m + 1; i < plan.order; ++i) inner *= plan.rank[i];
            const int64_t outer = core / inner / r;
            each(r, [&](int64_t k) {
                double sum = 0;
                for (int64_t o = 0; o < outer; ++o)
                    for (int64_t i = 0; i < inner; ++i) {
                        const double value = at.core[(o * r + k) * inner + i];
                        sum += value * value;
                    }
                write(out.singular_values[m], item * r + k, sqrt(sum));
            });
        }
    }
    // Zeros, or NaN for an item that holds NaN or Inf.
    __device__ void blank(const HooiOutput& out, int64_t item, bool finite) const {
        const double value = finite ? 0.0 : not_a_number();
        fill(out.core, item * plan.core_size(), plan.core_size(), value);
        if (plan.big >= 0 && out.responses.data) {
            const int64_t size = plan.others_size(plan.big) * plan.rank[plan.big];
            fill(out.responses, item * size, size, value);
        }
        for (int m = 0; m < plan.order; ++m) {
            if (plan.kept[m]) continue;
            const int64_t r = plan.rank[m], size = plan.shape[m] * r;
            fill(out.singular_values[m], item * r, r, value);
            each(size, [&](int64_t i) {
                write(out.factors[m], item * size + i, finite ? (i / r == i % r ? 1.0 : 0.0) : value);
            });
        }
    }
    __device__ double squared_norm() const {
        double sum = 0;
        if (plan.big >= 0) {
            const int64_t s = plan.others_size(plan.big);
            for (int64_t i = block.rank(); i < s; i += block.size()) sum += gram[i * s + i];
            return block.sum(sum);
        }
        const Fibres f = device_fibres(x, plan.order - 1);
        for (int64_t i = block.rank(); i < f.count * f.n; i += block.size()) {
            const double value = read(f.data, f.dtype, fibre_offset(f, i / f.n) + i % f.n * f.step);
            sum += value * value;
        }
        return block.sum(sum);
    }
    __device__ void run(const HooiOutput& out, int64_t item) {
        norm2 = squared_norm();
        const bool finite = is_finite(norm2), zero = norm2 == 0;
        double* errors = out.errors + item * plan.n_iter_max;
        each(plan.n_iter_max, [&](int64_t i) { errors[i] = zero && i == 0 ? 0.0 : not_a_number(); });
        int sweeps = 0;
        bool converged = zero;
        if (finite && !zero) {
            for (int m = 0; m < plan.order; ++m)
                if (plan.given && !plan.kept[m] && m != plan.big)
                    take_start(m);
                else if (plan.starts(m))
                    start(m);
            double before = 0;
            for (; sweeps < plan.n_iter_max && !converged; ++sweeps) {
                for (int m = 0; m < plan.order; ++m)
                    if (plan.moves(sweeps, m)) update(m);
                contract();
                const double now = error();
                if (block.rank() == 0) errors[sweeps] = now;
                converged = sweeps >= 2 && fabs(before - now) < plan.tol;
                before = now;
            }
            if (plan.big >= 0) explicit_factor();
            put(out, item);
        } else {
            blank(out, item, finite);
        }
        if (block.rank() != 0) return;
        out.n_sweeps[item] = zero ? 1 : sweeps;
        out.converged[item] = converged;
        out.finite[item] = finite;
    }
};

// Shared memory that the workspace cannot hold: for reductions, and for tiles where they have no place among the rest.
int64_t fixed_bytes(const HooiPlan& plan, bool on_chip) {
    return kBlockScratch * 8 + (on_chip && plan.big >= 0 ? 0 : kTileBytes);
}

bool fits(const HooiPlan& plan) {
    return fixed_bytes(plan, true) + HooiMemory::small_bytes(plan) <= 96 * 1024;
}

// Block b: item b. What fits is in shared memory, behind `fixed` bytes, the rest in the item's part of the workspace.
__global__ void __launch_bounds__(kTileThreads)
    hooi_kernel(TensorBatch x, HooiPlan plan, const double* gram, HooiStart start, HooiOutput out, char* workspace,
                int64_t in_workspace, bool on_chip, int64_t fixed) {
    const int64_t item = blockIdx.x;
    char* shared = shared_memory();
    const Block block{reinterpret_cast<double*>(shared)};
    char* global = workspace + item * in_workspace;
    Tensor own = x.first;
    own.data = item_data(own.data, own.dtype, item * x.batch_stride);
    const int64_t s = plan.big >= 0 ? plan.others_size(plan.big) : 0;
    Item work{plan,
              block,
              own,
              gram + item * s * s,
              HooiMemory{},
              reinterpret_cast<double*>(shared) + kBlockScratch,
              out.core.wide ? kWeakWide : kWeak,
              start,
              item};
    work.at.lay_out(plan, on_chip ? shared + fixed : global, on_chip ? global : nullptr);
    if (on_chip && plan.big >= 0) work.tile = work.at.spare[0];
    work.run(out, item);
}

}  // namespace

int64_t hooi_workspace(const HooiPlan& plan) {
    return HooiMemory::big_bytes(plan) + (fits(plan) ? 0 : HooiMemory::small_bytes(plan));
}

void hooi(const TensorBatch& x, const HooiPlan& plan, const double* gram, const HooiStart& start, const HooiOutput& out,
          void* workspace, int64_t bytes, void* stream) {
    require_workspace(bytes, x.batch * hooi_workspace(plan));
    if (plan.elements() > 0x7fffffff)
        throw std::invalid_argument("hooi: an item must have at most 2147483647 elements");
    const bool on_chip = fits(plan);
    const int64_t fixed = fixed_bytes(plan, on_chip);
    launch("hooi_kernel", hooi_kernel, x.batch, kTileThreads, fixed + (on_chip ? HooiMemory::small_bytes(plan) : 0),
           stream, x, plan, gram, start, out, static_cast<char*>(workspace), hooi_workspace(plan), on_chip, fixed);
}

}  // namespace tsm::cuda
