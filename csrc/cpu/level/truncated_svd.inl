// Eigenpairs of batches of symmetric matrices, largest first. Up to kLockstep all of it runs in lockstep, one matrix
// per SIMD lane. Larger matrices do the O(n^3) parts one by one and share only the eigenvalues' QL.
// In double the vectors come from inverse iteration, and from QL where that fails its own tests; in float from QL.
// Where they lack more of orthonormality than is let stand (most_loss), they are straightened.

constexpr int kLockstep = 64;
constexpr double kLost = 1e-7;  // beyond this loss, vectors from inverse iteration are no longer straightened

// The loss of orthonormality that a solver in T lets stand in results that are good to `loss`: QL in float leaves 1e-6.
template <class T>
static T loss_kept(double loss) {
    return static_cast<T>(sizeof(T) == 4 && loss < 4e-6 ? 4e-6 : loss);
}

// order[j]: where the j-th largest of n values stands, kLanes apart.
template <class T>
static void descending(const T* values, int n, int* order) {
    constexpr int L = kLanes<T>;
    for (int i = 0; i < n; ++i) {
        int j = i;
        for (; j > 0 && values[order[j - 1] * L] < values[i * L]; --j) order[j] = order[j - 1];
        order[j] = i;
    }
}

// Every column's entry of largest magnitude becomes positive; the first one on a tie. vectors: [n, rank]
template <class T>
static void point_up(Vec<T>* vectors, int n, int rank) {
    for (int j = 0; j < rank; ++j) {
        Vec<T> most{}, entry{};
        for (int i = 0; i < n; ++i) {
            const Vec<T> x = vectors[i * rank + j], size = vabs<T>(x);
            entry = size > most ? x : entry;
            most = size > most ? size : most;
        }
        for (int i = 0; i < n; ++i) vectors[i * rank + j] = entry < 0 ? -vectors[i * rank + j] : vectors[i * rank + j];
    }
}

// Solves kLanes matrices of size n <= kLockstep at once.
template <class T>
struct LaneEigen {
    using V = Vec<T>;
    static constexpr int L = kLanes<T>;
    int n, ld;  // an odd leading dimension keeps columns out of one cache set
    V *z, *d, *e, *tau, *work, *rotations, *d_work, *e_work;
    LaneEigen(int size, Arena& arena) : n(size), ld(size | 1) {
        z = arena.take<V>(n * ld);
        d = arena.take<V>(n);
        e = arena.take<V>(n);
        tau = arena.take<V>(n);
        d_work = arena.take<V>(n);
        e_work = arena.take<V>(n);
        work = arena.take<V>((kShiftedVectors<T> + 1) * n);
        rotations = arena.take<V>(kSweepsKept * 2 * n);
    }

    // a: [n, ld], lower triangle, entries about 1, destroyed. Returns values [rank] and vectors [n, rank], whose loss
    // of orthonormality is at most `loss`.
    void solve(V* a, int rank, V* values, V* vectors, double loss) {
        tridiagonalize<T>(a, n, ld, d, e, tau, work);
        for (int i = 0; i < n; ++i) {
            d_work[i] = d[i];
            e_work[i] = i < n - 1 ? e[i] : V{};
        }
        V by_ql = splat<T>(1), lost{};
        if constexpr (sizeof(T) == 8) {
            by_ql = by_inverse_iteration(a, rank, values, vectors);
            lost = judged(rank, vectors);
            by_ql = lost <= kLost ? by_ql : splat<T>(1);
        }
        if (any(by_ql)) {
            solve_by_ql(a, rank, by_ql, values, vectors);
            lost = judged(rank, vectors);
        }
        const V bent = lost > loss_kept<T>(loss) ? splat<T>(1) : V{};
        if (any(bent)) straighten(a, rank, bent, vectors);
        point_up<T>(vectors, n, rank);
    }
    static bool any(V lanes) {
        bool one = false;
        for (int lane = 0; lane < L; ++lane) one |= lanes[lane] != 0;
        return one;
    }
    // What the vectors lack of orthonormality.
    V judged(int rank, const V* vectors) {
        V *x = work, *c = work + n;
        for (int j = 0; j < rank; ++j) {
            x[j] = splat(judge<T>(j));
            c[j] = -x[j];
        }
        int i = 0;
        for (; i + 4 <= n; i += 4) judge_rows<V, V, 4>(vectors + i * rank, rank, rank, x, c);
        for (; i < n; ++i) judge_rows<V, V, 1>(vectors + i * rank, rank, rank, x, c);
        V most{};
        for (int j = 0; j < rank; ++j) most = most > vabs<T>(c[j]) ? most : vabs<T>(c[j]);  // where one is NaN, all are
        return most;
    }
    // e: [rank, ld] of scratch
    void straighten(V* e, int rank, V lanes, V* vectors) {
        for (int i = 0; i < rank * ld; ++i) e[i] = V{};
        int i = 0;
        for (; i + 8 <= n; i += 8) add_products<V, V, 8>(vectors + i * rank, rank, rank, e, ld);
        for (; i < n; ++i) add_products<V, V, 1>(vectors + i * rank, rank, rank, e, ld);
        for (int p = 0; p < rank; ++p) {
            e[p * ld + p] = (e[p * ld + p] - T(1)) * T(0.5);
            for (int j = p; j < rank; ++j) e[p * ld + j] = lanes != 0 ? e[p * ld + j] : V{};
        }
        for (i = 0; i + 8 <= n; i += 8) straighten_rows<V, V, 8>(vectors + i * rank, rank, rank, e, ld);
        for (; i < n; ++i) straighten_rows<V, V, 1>(vectors + i * rank, rank, rank, e, ld);
    }
    V by_inverse_iteration(const V* a, int rank, V* values, V* vectors) {
        eigenvalues_lanes<T>(d_work, e_work, n);
        int* order = reinterpret_cast<int*>(rotations);
        for (int lane = 0; lane < L; ++lane) {
            descending<T>(reinterpret_cast<const T*>(d_work) + lane, n, order);
            for (int j = 0; j < rank; ++j) values[j][lane] = d_work[order[j]][lane];
        }
        const V failed = inverse_iteration(d, e, n, values, rank, z, ld, work);
        int j = 0;
        for (; j + 4 <= rank; j += 4) reflect<V, V, 4>(a, n, ld, tau, z + j * ld, ld);
        for (; j < rank; ++j) reflect<V, V, 1>(a, n, ld, tau, z + j * ld, ld);
        for (int i = 0; i < n; ++i)
            for (j = 0; j < rank; ++j) vectors[i * rank + j] = z[j * ld + i];
        return failed;
    }
    void solve_by_ql(const V* a, int rank, V lanes, V* values, V* vectors) {
        form_q<T>(a, n, ld, tau, z, work);
        ql_lanes<T>(d, e, n, rotations, [&](const V* rot, const int* low, const int* high, int count) {
            int k = 0;
            for (; k + 4 <= n; k += 4) rotate_rows<V, 4>(z + k * ld, n, ld, rot, low, high, count);
            for (; k < n; ++k) rotate_rows<V, 1>(z + k * ld, n, ld, rot, low, high, count);
        });
        int* order = reinterpret_cast<int*>(rotations);
        for (int lane = 0; lane < L; ++lane) {
            if (lanes[lane] == 0) continue;
            descending<T>(reinterpret_cast<const T*>(d) + lane, n, order);
            for (int j = 0; j < rank; ++j) {
                values[j][lane] = d[order[j]][lane];
                for (int i = 0; i < n; ++i) vectors[i * rank + j][lane] = z[i * ld + order[j]][lane];
            }
        }
    }
};

// Solves up to kLanes matrices of any size, one after the other but for their eigenvalues.
template <class T>
struct StripEigen {
    using V = Vec<T>;
    static constexpr int L = kLanes<T>;
    static constexpr int kMaxCluster = 24;
    int n, strips;
    int64_t ld;
    T *matrices, *taus, *work;
    V *z, *d, *e, *found, *d_work, *e_work, *rotations, *shifted;  // found: the eigenvalues, unsorted
    int* order;

    static int64_t ld_of(int64_t n) { return padded<T>(n) + (padded<T>(n) % 64 == 0 ? L : 0); }
    StripEigen(int size, int group, Arena& arena) : n(size), strips((size + L - 1) / L), ld(ld_of(size)) {
        matrices = arena.take<T>(group * n * ld);
        taus = arena.take<T>(group * ld);
        work = arena.take<T>(4 * ld);
        z = arena.take<V>(int64_t{strips} * n);
        d = arena.take<V>(n);
        e = arena.take<V>(n);
        found = arena.take<V>(n);
        d_work = arena.take<V>(n);
        e_work = arena.take<V>(n);
        rotations = arena.take<V>(kSweepsKept * 2 * n);
        shifted = arena.take<V>(kShiftedVectors<T> * n);
        order = arena.take<int>(n);
    }
    T* matrix(int lane) { return matrices + int64_t{lane} * n * ld; }  // [n, ld], whole, zeros behind column n
    const T* tau(int lane) const { return taus + lane * ld; }

    void eigenvalues(int count) {
        for (int lane = 0; lane < count; ++lane)
            tridiagonalize_one<T>(matrix(lane), n, ld, reinterpret_cast<T*>(d) + lane, reinterpret_cast<T*>(e) + lane,
                                  L, taus + lane * ld, work);
        for (int i = 0; i < n; ++i) {
            for (int lane = count; lane < L; ++lane) d[i][lane] = e[i][lane] = 0;
            found[i] = d[i];
            e_work[i] = i < n - 1 ? e[i] : V{};
        }
        eigenvalues_lanes<T>(found, e_work, n);
    }
    // The eigenvectors [n, rank] of lane's matrix for its largest eigenvalues lambda [rank], whose loss of
    // orthonormality is at most `loss`.
    void vectors(int lane, int rank, T* lambda, double* out, double loss) {
        T lost = 0;
        bool sound = false;
        if (sizeof(T) == 8 && by_inverse_iteration(lane, rank, lambda)) {
            reflect_vectors(lane, rank, out);
            lost = judged(rank, out);
            sound = lost <= kLost;
        }
        if (!sound) {
            solve_by_ql(lane, rank, lambda, out);
            lost = judged(rank, out);
        }
        if (lost > loss_kept<T>(loss)) straighten(matrix(lane), rank, out);
    }
    // Four rows of `out` from row i in `work`, zeros behind them.
    void take_rows(const double* out, int i, int rank) {
        for (int64_t j = 0; j < 4 * ld; ++j) work[j] = 0;
        for (int r = 0; r < 4 && i + r < n; ++r)
            for (int j = 0; j < rank; ++j) work[r * ld + j] = static_cast<T>(out[int64_t{i + r} * rank + j]);
    }
    // What the vectors lack of orthonormality.
    T judged(int rank, const double* out) {
        T* x = reinterpret_cast<T*>(rotations);
        T* c = x + ld;
        for (int j = 0; j < ld; ++j) {
            x[j] = j < rank ? judge<T>(j) : T(0);
            c[j] = -x[j];
        }
        for (int i = 0; i < n; i += 4) {
            take_rows(out, i, rank);
            judge_rows<V, T, 4>(work, ld, rank, x, c);
        }
        T most = 0;
        for (int j = 0; j < rank; ++j) {
            const T size = c[j] < 0 ? -c[j] : c[j];
            most = most > size ? most : size;  // where one is NaN, all are
        }
        return most;
    }
    // e: [rank, ld] of scratch
    void straighten(T* e, int rank, double* out) {
        for (int64_t i = 0; i < rank * ld; ++i) e[i] = 0;
        for (int i = 0; i < n; i += 4) {
            take_rows(out, i, rank);
            add_products<V, T, 4>(work, ld, rank, e, ld);
        }
        for (int p = 0; p < rank; ++p) {
            for (int j = p / L * L; j < p; ++j) e[p * ld + j] = 0;
            e[p * ld + p] = (e[p * ld + p] - 1) / 2;
        }
        for (int i = 0; i < n; i += 4) {
            take_rows(out, i, rank);
            straighten_rows<V, T, 4>(work, ld, rank, e, ld);
            for (int r = 0; r < 4 && i + r < n; ++r)
                for (int j = 0; j < rank; ++j) out[int64_t{i + r} * rank + j] = static_cast<double>(work[r * ld + j]);
        }
    }
    void reflect_vectors(int lane, int rank, double* out) {
        const int used = (rank + L - 1) / L;
        int s = 0;
        for (; s + 2 <= used; s += 2) reflect<V, T, 2>(matrix(lane), n, ld, tau(lane), z + s * n, n);
        for (; s < used; ++s) reflect<V, T, 1>(matrix(lane), n, ld, tau(lane), z + s * n, n);
        for (int i = 0; i < n; ++i) {
            int j = 0;
            if constexpr (sizeof(T) == 8)
                for (; j + L <= rank; j += L) store(out + int64_t{i} * rank + j, z[int64_t{j} / L * n + i]);
            for (; j < rank; ++j) out[int64_t{i} * rank + j] = static_cast<double>(z[int64_t{j} / L * n + i][j % L]);
        }
    }
    void solve_by_ql(int lane, int rank, T* lambda, double* out) {
        by_ql(lane);
        descending<T>(reinterpret_cast<const T*>(d_work), n, order);
        for (int j = 0; j < rank; ++j) {
            lambda[j] = d_work[order[j]][0];
            for (int i = 0; i < n; ++i)
                out[int64_t{i} * rank + j] = static_cast<double>(z[int64_t{i} / L * n + order[j]][i % L]);
        }
    }
    bool by_inverse_iteration(int lane, int rank, const T* lambda) {
        T* dl = work;  // this lane's own T
        T* el = work + ld;
        for (int i = 0; i < n; ++i) {
            dl[i] = d[i][lane];
            el[i] = e[i][lane];
        }
        for (int j = kMaxCluster; j < rank; ++j)
            if (lambda[j - kMaxCluster] - lambda[j] < kClose) return false;
        T shift = lambda[0] + 1;
        Shifted<T> lu(n, shifted);
        for (int s = 0; s * L < rank; ++s) {
            V at{};
            for (int l = 0; l < L; ++l) {
                const int j = s * L + l < rank ? s * L + l : rank - 1;
                shift = lambda[j] < shift - 4 * kEpsilon<T> ? lambda[j] : shift - 4 * kEpsilon<T>;
                at[l] = shift;
            }
            V* y = z + int64_t{s} * n;
            lu.factorize(dl, el, at);
            for (int i = 0; i < n; ++i)
                for (int l = 0; l < L; ++l) y[i][l] = irregular<T>(static_cast<uint32_t>((s * L + l) * n + i));
            V growth{};
            for (int solve = 0; solve < 3; ++solve) {
                if (solve > 0) lu.forward(y);
                lu.backward(y);
                growth = normalize_lanes<T>(y, n);
                if (!separate(s, rank, lambda, solve == 2)) return false;
                if (solve == 1 && !clustered(s, rank, lambda)) break;
            }
            for (int l = 0; l < L && s * L + l < rank; ++l)
                if (!(growth[l] > kGrowth)) return false;
        }
        return true;
    }
    int cluster_begin(int j, const T* lambda) const {
        while (j > 0 && lambda[j - 1] - lambda[j] < kClose) --j;
        return j;
    }
    bool clustered(int s, int rank, const T* lambda) const {
        for (int j = s * L; j < rank && j < (s + 1) * L; ++j)
            if (cluster_begin(j, lambda) < j) return true;
        return false;
    }
    // Makes the vectors of strip s orthogonal to those before them in their clusters.
    bool separate(int s, int rank, const T* lambda, bool last) {
        for (int j = s * L; j < rank && j < (s + 1) * L; ++j) {
            const int begin = cluster_begin(j, lambda);
            if (begin == j) continue;
            T* own = reinterpret_cast<T*>(z + int64_t{j} / L * n) + j % L;
            for (int p = begin; p < j; ++p) {
                const T* other = reinterpret_cast<const T*>(z + int64_t{p} / L * n) + p % L;
                T dot = 0;
                for (int i = 0; i < n; ++i) dot += own[i * L] * other[i * L];
                for (int i = 0; i < n; ++i) own[i * L] -= dot * other[i * L];
            }
            T left = 0;
            for (int i = 0; i < n; ++i) left += own[i * L] * own[i * L];
            left = static_cast<T>(__builtin_sqrt(static_cast<double>(left)));
            if (last && !(left > T(1e-3))) return false;
            for (int i = 0; i < n; ++i) own[i * L] /= left;
        }
        return true;
    }
    void by_ql(int lane) {
        int s = 0;
        for (; s + 2 <= strips; s += 2) form_q_strips<T, 2>(matrix(lane), n, ld, tau(lane), z + s * n, s * L);
        for (; s < strips; ++s) form_q_strips<T, 1>(matrix(lane), n, ld, tau(lane), z + s * n, s * L);
        // Every lane but the first is idle here.
        for (int i = 0; i < n; ++i) {
            d_work[i] = V{};
            e_work[i] = V{};
            d_work[i][0] = d[i][lane];
            e_work[i][0] = i < n - 1 ? e[i][lane] : 0;
        }
        ql_lanes<T>(d_work, e_work, n, rotations, [&](const V* rot, const int* low, const int* high, int sweeps) {
            const T* own = reinterpret_cast<const T*>(rot);
            int k = 0;
            for (; k + 2 <= strips; k += 2) rotate_strips<T, 2>(z + k * n, n, own, low, high, sweeps);
            for (; k < strips; ++k) rotate_strips<T, 1>(z + k * n, n, own, low, high, sweeps);
        });
    }
};

// The power of two that brings a magnitude into [1/2, 1).
static inline double power_below(double largest) {
    int exponent;
    __builtin_frexp(largest, &exponent);
    return __builtin_ldexp(1.0, -exponent);
}

// The largest magnitude of n numbers; NaN where one of them is NaN or Inf.
static double largest_of(const double* x, int64_t n) {
    constexpr int L = kLanes<double>;
    Vec<double> most{}, odd{};
    int64_t i = 0;
    for (; i + L <= n; i += L) {
        const Vec<double> at = load(x + i);
        most = vmax<double>(vabs<double>(at), most);
        odd += at * 0.0;  // NaN where it is not finite
    }
    double largest = 0, sum = sum_lanes<double>(odd);
    for (int l = 0; l < L; ++l) largest = most[l] > largest ? most[l] : largest;
    for (; i < n; ++i) {
        sum += x[i] * 0;
        largest = __builtin_fabs(x[i]) > largest ? __builtin_fabs(x[i]) : largest;
    }
    return sum == 0 ? largest : __builtin_nan("");
}

// How many matrices of size n are solved together.
template <class T>
static int eigh_group(int64_t n) {
    if (n <= kLockstep) return kLanes<T>;
    int group = kLanes<T>;
    const auto bytes = [&] {
        return bytes_taken([&](Arena& arena) { StripEigen<T>(static_cast<int>(n), group, arena); });
    };
    while (group > 1 && bytes() > (int64_t{6} << 20)) group /= 2;
    return group;
}

// The same for one matrix, row after row. most, entry: [rank]
static void point_up_one(double* vectors, int n, int rank, double* most, double* entry) {
    largest_entries(vectors, n, rank, entry, most);
    for (int j = 0; j < rank; ++j) entry[j] = entry[j] < 0 ? -1 : 1;
    for (int64_t i = 0; i < n; ++i)
        for (int j = 0; j < rank; ++j) vectors[i * rank + j] *= entry[j];
}

// Leading `rank` eigenpairs of count <= eigh_group(n) matrices g[i]: [n, n]; values[i]: [rank], vectors[i]: [n, rank].
// A matrix with NaN or Inf gives NaN. `loss`: how much of their orthonormality the vectors may lack.
template <class T>
static void eigh_items(const double* const* g, int count, int n, int rank, double* const* values,
                       double* const* vectors, Arena arena, double loss = most_loss(false)) {
    constexpr int L = kLanes<T>;
    double power[L];
    bool finite[L], zero[L];
    for (int lane = 0; lane < count; ++lane) {
        const double largest = largest_of(g[lane], int64_t{n} * n);
        finite[lane] = largest <= 1.7976931348623157e308;
        zero[lane] = finite[lane] && largest == 0;
        power[lane] = finite[lane] && !zero[lane] ? power_below(largest) : 1;
    }
    // What lanes without a matrix to solve hold instead: its vectors are the columns of the identity.
    auto element = [&](int lane, int i, int j) {
        if (lane < count && finite[lane] && !zero[lane])
            return static_cast<T>(g[lane][int64_t{i} * n + j] * power[lane]);
        return i == j ? T(1) - static_cast<T>(i) / static_cast<T>(2 * n) : T(0);
    };
    auto rescale = [&](int lane) {
        const double other = zero[lane] ? 0 : __builtin_nan("");
        const bool solved = finite[lane] && !zero[lane];
        for (int j = 0; j < rank; ++j) values[lane][j] = solved ? values[lane][j] / power[lane] : other;
        if (!finite[lane])
            for (int64_t i = 0; i < int64_t{n} * rank; ++i) vectors[lane][i] = other;
    };
    if (n <= kLockstep) {
        LaneEigen<T> solver(n, arena);
        Vec<T>* a = arena.take<Vec<T>>(n * solver.ld);
        Vec<T>* lane_values = arena.take<Vec<T>>(n);
        Vec<T>* lane_vectors = arena.take<Vec<T>>(n * n);
        T* as = reinterpret_cast<T*>(a);
        for (int lane = 0; lane < L; ++lane)
            for (int i = 0; i < n; ++i)
                for (int j = 0; j <= i; ++j) as[(i * solver.ld + j) * L + lane] = element(lane, i, j);
        solver.solve(a, rank, lane_values, lane_vectors, loss);
        for (int lane = 0; lane < count; ++lane) {
            for (int j = 0; j < rank; ++j) values[lane][j] = static_cast<double>(lane_values[j][lane]);
            for (int i = 0; i < n * rank; ++i) vectors[lane][i] = static_cast<double>(lane_vectors[i][lane]);
            rescale(lane);
        }
        return;
    }
    StripEigen<T> solver(n, eigh_group<T>(n), arena);
    T* lambda = arena.take<T>(n);
    double* signs = arena.take<double>(2 * n);
    for (int lane = 0; lane < count; ++lane) {
        T* a = solver.matrix(lane);
        const bool solved = finite[lane] && !zero[lane];
        for (int i = 0; i < n; ++i) {
            const double* row = g[lane] + int64_t{i} * n;
            for (int j = 0; j < n; ++j)
                a[i * solver.ld + j] = solved ? static_cast<T>(row[j] * power[lane]) : element(lane, i, j);
            for (int64_t j = n; j < solver.ld; ++j) a[i * solver.ld + j] = 0;
        }
    }
    solver.eigenvalues(count);
    for (int lane = 0; lane < count; ++lane) {
        descending<T>(reinterpret_cast<const T*>(solver.found) + lane, n, solver.order);
        for (int j = 0; j < rank; ++j) lambda[j] = solver.found[solver.order[j]][lane];
        solver.vectors(lane, rank, lambda, vectors[lane], loss);
        point_up_one(vectors[lane], n, rank, signs, signs + rank);
        for (int j = 0; j < rank; ++j) values[lane][j] = static_cast<double>(lambda[j]);
        rescale(lane);
    }
}
