// Eigenpairs of batches of symmetric matrices, largest first.
//   tridiagonalize  Householder reflectors (LAPACK sytd2), the rank-2 update fused with the next product
//   form_q          the product of the reflectors
//   ql_lanes        implicit QL with Wilkinson's shift (EISPACK tql2), lanes advance independently
// Up to kLockstep all of it runs in lockstep, one matrix per SIMD lane, so every scalar operation of the textbook
// algorithm is one vector operation for kLanes matrices. Larger matrices do the O(n^3) parts one by one, vectors
// along the rows, and share only the QL. Lanes that are done keep their values bit for bit, so that a result does
// not depend on its neighbours.

constexpr int kLockstep = 64;

constexpr int kSweepsKept = 16;  // QL sweeps whose rotations are stored before they are applied

// Rows [i, i + RB) of the pass below, from column k + 1.
template <class V, int RB>
static inline void update_and_multiply(V* a, int ld, int first, int i, const V* v0, const V* w0, const V* v, V* p) {
    V* row[RB];
    V vi[RB], wi[RB], ui[RB], acc[RB];
    for (int r = 0; r < RB; ++r) {
        row[r] = a + (i + r) * ld;
        vi[r] = v0[i + r];
        wi[r] = w0[i + r];
        ui[r] = v[i + r];
        acc[r] = V{};
    }
    for (int j = first; j < i; ++j) {
        V pj = p[j];
        for (int r = 0; r < RB; ++r) {
            const V x = row[r][j] - vi[r] * w0[j] - wi[r] * v0[j];
            row[r][j] = x;
            acc[r] += x * v[j];
            pj += x * ui[r];
        }
        p[j] = pj;
    }
    for (int r = 0; r < RB; ++r) {
        for (int c = 0; c <= r; ++c) {
            const V x = row[r][i + c] - vi[r] * w0[i + c] - wi[r] * v0[i + c];
            row[r][i + c] = x;
            acc[r] += x * v[i + c];
            if (c < r) acc[c] += x * ui[r];
        }
    }
    for (int r = 0; r < RB; ++r) p[i + r] += acc[r];
}

// A = Q T Q^T, T with diagonal d and off-diagonal e [n - 1]. On entry A's lower triangle; on return reflector k is in
// row k right of the diagonal. work: [4, n].
template <class T>
static void tridiagonalize(Vec<T>* a, int n, int ld, Vec<T>* d, Vec<T>* e, Vec<T>* tau, Vec<T>* work) {
    using V = Vec<T>;
    V *v0 = work, *w0 = work + n, *v = work + 2 * n, *p = work + 3 * n;  // reflector and companion, previous and new
    for (int i = 0; i < n; ++i) v0[i] = w0[i] = V{};
    for (int k = 0; k < n; ++k) {
        for (int i = k; i < n; ++i) a[i * ld + k] -= v0[i] * w0[k] + w0[i] * v0[k];
        d[k] = a[k * ld + k];
        if (k == n - 1) break;
        const V alpha = a[(k + 1) * ld + k];
        V rest{};
        for (int i = k + 2; i < n; ++i) rest += a[i * ld + k] * a[i * ld + k];
        const V norm = vsqrt<T>(alpha * alpha + rest);
        const V beta = alpha < 0 ? norm : -norm;
        e[k] = rest == 0 ? alpha : beta;
        tau[k] = rest == 0 ? V{} : (beta - alpha) / beta;
        const V scale = rest == 0 ? V{} : T(1) / (alpha - beta);
        v[k + 1] = splat<T>(1);
        for (int i = k + 2; i < n; ++i) v[i] = a[i * ld + k] * scale;
        for (int i = k + 1; i < n; ++i) {
            a[k * ld + i] = v[i];
            p[i] = V{};
        }
        int i = k + 1;
        for (; i + 4 <= n; i += 4) update_and_multiply<V, 4>(a, ld, k + 1, i, v0, w0, v, p);
        for (; i < n; ++i) update_and_multiply<V, 1>(a, ld, k + 1, i, v0, w0, v, p);
        V pv{};
        for (int j = k + 1; j < n; ++j) pv += p[j] * v[j];
        const V half = tau[k] * tau[k] * pv * T(-0.5);
        for (int j = k + 1; j < n; ++j) p[j] = tau[k] * p[j] + half * v[j];
        V* spare_v = v0;
        V* spare_w = w0;
        v0 = v;
        w0 = p;
        v = spare_v;
        p = spare_w;
    }
}

// z = Q from the reflectors that tridiagonalize left in a.
template <class T>
static void form_q(const Vec<T>* a, int n, int ld, const Vec<T>* tau, Vec<T>* z, Vec<T>* u) {
    using V = Vec<T>;
    for (int i = 0; i < n * ld; ++i) z[i] = V{};
    for (int i = 0; i < n; ++i) z[i * ld + i] = splat<T>(1);
    for (int k = n - 3; k >= 0; --k) {
        const V* v = a + k * ld;
        for (int j = k + 1; j < n; ++j) u[j] = V{};
        int i = k + 1;
        for (; i + 4 <= n; i += 4) {
            const V *z0 = z + i * ld, *z1 = z0 + ld, *z2 = z1 + ld, *z3 = z2 + ld;
            const V v0 = v[i], v1 = v[i + 1], v2 = v[i + 2], v3 = v[i + 3];
            for (int j = k + 1; j < n; ++j) u[j] += (v0 * z0[j] + v1 * z1[j]) + (v2 * z2[j] + v3 * z3[j]);
        }
        for (; i < n; ++i)
            for (int j = k + 1; j < n; ++j) u[j] += v[i] * z[i * ld + j];
        for (i = k + 1; i < n; ++i) {
            const V factor = tau[k] * v[i];
            V* row = z + i * ld;
            for (int j = k + 1; j < n; ++j) row[j] -= factor * u[j];
        }
    }
}

// The stored rotations of `count` sweeps, applied to RB rows of z. Rotation i of a sweep mixes columns i and i + 1;
// its cosine and sine stand at rotations[sweep][i].
template <class V, int RB>
static inline void rotate_rows(V* z, int n, int ld, const V* rotations, const int* low, const int* high, int count) {
    for (int q = 0; q < count; ++q) {
        const V* cs = rotations + static_cast<int64_t>(q) * 2 * n;
        V carried[RB];
        for (int r = 0; r < RB; ++r) carried[r] = z[r * ld + high[q]];
        for (int i = high[q] - 1; i >= low[q]; --i) {
            const V c = cs[2 * i], s = cs[2 * i + 1];
            for (int r = 0; r < RB; ++r) {
                const V x = z[r * ld + i];
                z[r * ld + i + 1] = s * x + c * carried[r];
                carried[r] = c * x - s * carried[r];
            }
        }
        for (int r = 0; r < RB; ++r) z[r * ld + low[q]] = carried[r];
    }
}

template <class T>
constexpr T kEpsilon = sizeof(T) == 8 ? T(2.220446049250313e-16) : T(1.1920929e-07);

// Eigenvalues of the tridiagonal (d, e) into d, unsorted; e has n entries. The rotations of every kSweepsKept sweeps
// are handed to apply(rotations, low, high, count). rotations: [kSweepsKept, n, 2]
template <class T, class Apply>
static void ql_lanes(Vec<T>* d, Vec<T>* e, int n, Vec<T>* rotations, Apply apply) {
    using V = Vec<T>;
    constexpr int L = kLanes<T>;
    T* ds = reinterpret_cast<T*>(d);
    T* es = reinterpret_cast<T*>(e);
    e[n - 1] = V{};
    V norm{};
    for (int i = 0; i < n; ++i) norm = vmax<T>(norm, vabs<T>(d[i]) + vabs<T>(e[i]));
    const V small = norm * kEpsilon<T>;
    int first[L] = {}, stop[L];  // each lane works on rows first..stop of its own block
    int low[kSweepsKept], high[kSweepsKept], kept = 0;
    for (int sweep = 0; sweep < 40 * n + 40; ++sweep) {
        int lo = n, hi = -1;
        V g{}, in_first{}, in_stop{};
        for (int lane = 0; lane < L; ++lane) {
            int l = first[lane];
            const T limit = small[lane];
            while (l < n - 1 && !(__builtin_fabs(static_cast<double>(es[l * L + lane])) > limit)) ++l;
            first[lane] = l;
            int m = l;
            while (m < n - 1 && __builtin_fabs(static_cast<double>(es[m * L + lane])) > limit) ++m;
            stop[lane] = m;
            in_first[lane] = static_cast<T>(l);
            in_stop[lane] = static_cast<T>(m);
            if (m == l) continue;
            lo = l < lo ? l : lo;
            hi = m > hi ? m : hi;
            const double el = es[l * L + lane], dl = ds[l * L + lane];
            const double theta = (ds[(l + 1) * L + lane] - dl) / (2 * el);
            const double root = __builtin_sqrt(theta * theta + 1);
            g[lane] = static_cast<T>(ds[m * L + lane] - dl + el / (theta + (theta < 0 ? -root : root)));
        }
        if (hi < 0) break;
        V s = splat<T>(1), c = s, p{};
        V* cs = rotations + static_cast<int64_t>(kept) * 2 * n;
        for (int i = hi - 1; i >= lo; --i) {
            const V at = splat<T>(static_cast<T>(i));
            const auto on = (at >= in_first) & (at < in_stop);
            const V f = s * e[i], b = c * e[i];
            const V r = vsqrt<T>(f * f + g * g);
            const auto zero = r == 0;
            const V inverse = T(1) / r;
            const V s1 = zero ? V{} : f * inverse, c1 = zero ? splat<T>(1) : g * inverse;
            const V g1 = d[i + 1] - p;
            const V t = (d[i] - g1) * s1 + T(2) * c1 * b;
            const V p1 = s1 * t;
            e[i + 1] = on ? r : e[i + 1];
            d[i + 1] = on ? g1 + p1 : d[i + 1];
            g = on ? c1 * t - b : g;
            p = on ? p1 : p;
            s = on ? s1 : s;
            c = on ? c1 : c;
            cs[2 * i] = on ? c1 : splat<T>(1);
            cs[2 * i + 1] = on ? s1 : V{};
        }
        for (int lane = 0; lane < L; ++lane) {
            if (stop[lane] == first[lane]) continue;
            ds[first[lane] * L + lane] -= p[lane];
            es[first[lane] * L + lane] = g[lane];
            es[stop[lane] * L + lane] = 0;
        }
        low[kept] = lo;
        high[kept] = hi;
        if (++kept == kSweepsKept) {
            apply(rotations, low, high, kept);
            kept = 0;
        }
    }
    if (kept > 0) apply(rotations, low, high, kept);
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
    int n, ld;  // an odd leading dimension keeps columns out of one cache set
    Vec<T>*z, *d, *e, *tau, *work, *rotations;
    static int64_t bytes(int64_t n) {
        return (n * (n | 1) + 7 * n + kSweepsKept * 2 * n) * TSM_VECTOR_BYTES + 6 * 64;
    }
    LaneEigen(int size, Arena& arena) : n(size), ld(size | 1) {
        z = arena.take<Vec<T>>(n * ld);
        d = arena.take<Vec<T>>(n);
        e = arena.take<Vec<T>>(n);
        tau = arena.take<Vec<T>>(n);
        work = arena.take<Vec<T>>(4 * n);
        rotations = arena.take<Vec<T>>(kSweepsKept * 2 * n);
    }

    // a: [n, ld], lower triangle, entries about 1, destroyed. Returns values [rank] and vectors [n, rank].
    void solve(Vec<T>* a, int rank, Vec<T>* values, Vec<T>* vectors) {
        constexpr int L = kLanes<T>;
        using V = Vec<T>;
        tridiagonalize<T>(a, n, ld, d, e, tau, work);
        form_q<T>(a, n, ld, tau, z, work);
        ql_lanes<T>(d, e, n, rotations, [&](const V* rot, const int* low, const int* high, int count) {
            int k = 0;
            for (; k + 4 <= n; k += 4) rotate_rows<V, 4>(z + k * ld, n, ld, rot, low, high, count);
            for (; k < n; ++k) rotate_rows<V, 1>(z + k * ld, n, ld, rot, low, high, count);
        });
        const T* zs = reinterpret_cast<const T*>(z);
        T* value = reinterpret_cast<T*>(values);
        T* vector = reinterpret_cast<T*>(vectors);
        int* order = reinterpret_cast<int*>(rotations);
        for (int lane = 0; lane < L; ++lane) {
            descending<T>(reinterpret_cast<const T*>(d) + lane, n, order);
            for (int j = 0; j < rank; ++j) {
                value[j * L + lane] = reinterpret_cast<const T*>(d)[order[j] * L + lane];
                for (int i = 0; i < n; ++i) vector[(i * rank + j) * L + lane] = zs[(i * ld + order[j]) * L + lane];
            }
        }
        point_up<T>(vectors, n, rank);
    }
};

// a -= v0 w0^T + w0 v0^T and p += a v on rows [i, i + RB) of one matrix, columns from `first` (a multiple of kLanes)
// to the end of the diagonal block, which is kept whole while the rest above the diagonal is not.
template <class T, int RB>
static inline void update_and_multiply_one(T* a, int64_t ld, int first, int i, const T* v0, const T* w0, const T* v, T* p) {
    using V = Vec<T>;
    constexpr int L = kLanes<T>;
    const int diagonal = i / L * L;
    T* row[RB];
    V acc[RB] = {};
    for (int r = 0; r < RB; ++r) row[r] = a + (i + r) * ld;
    for (int j = first; j < diagonal; j += L) {
        const V w0j = load(w0 + j), v0j = load(v0 + j), vj = load(v + j);
        V pj = load(p + j);
        for (int r = 0; r < RB; ++r) {
            const V x = load(row[r] + j) - v0[i + r] * w0j - w0[i + r] * v0j;
            store(row[r] + j, x);
            acc[r] += x * vj;
            pj += x * v[i + r];
        }
        store(p + j, pj);
    }
    for (int r = 0; r < RB; ++r) {
        const V x = load(row[r] + diagonal) - v0[i + r] * load(w0 + diagonal) - w0[i + r] * load(v0 + diagonal);
        store(row[r] + diagonal, x);
        p[i + r] += sum_lanes<T>(acc[r] + x * load(v + diagonal));
    }
}

// As tridiagonalize, for one whole symmetric matrix a: [n, ld], ld a multiple of kLanes; d and e `lanes` apart.
// work: [4, ld]
template <class T>
static void tridiagonalize_one(T* a, int n, int64_t ld, T* d, T* e, int lanes, T* tau, T* work) {
    constexpr int L = kLanes<T>, RB = L < 4 ? L : 4;
    T *v0 = work, *w0 = work + ld, *v = work + 2 * ld, *p = work + 3 * ld;
    for (int64_t i = 0; i < 4 * ld; ++i) work[i] = 0;
    for (int k = 0; k < n; ++k) {
        const T vk = v0[k], wk = w0[k];
        for (int i = k; i < n; ++i) v[i] = a[i * ld + k] - v0[i] * wk - w0[i] * vk;
        d[k * lanes] = v[k];
        v[k] = 0;
        if (k == n - 1) break;
        const T alpha = v[k + 1];
        T rest = 0;
        for (int i = k + 2; i < n; ++i) rest += v[i] * v[i];
        const T norm = static_cast<T>(__builtin_sqrt(static_cast<double>(alpha * alpha + rest)));
        const T beta = alpha < 0 ? norm : -norm;
        e[k * lanes] = rest == 0 ? alpha : beta;
        tau[k] = rest == 0 ? 0 : (beta - alpha) / beta;
        const T scale = rest == 0 ? 0 : 1 / (alpha - beta);
        v[k + 1] = 1;
        for (int i = k + 2; i < n; ++i) v[i] *= scale;
        for (int64_t i = 0; i < ld; ++i) p[i] = 0;
        for (int i = k + 1; i < n; ++i) a[k * ld + i] = v[i];
        const int first = (k + 1) / L * L;
        int i = k + 1;
        for (; i < n && i % RB != 0; ++i) update_and_multiply_one<T, 1>(a, ld, first, i, v0, w0, v, p);
        for (; i + RB <= n; i += RB) update_and_multiply_one<T, RB>(a, ld, first, i, v0, w0, v, p);
        for (; i < n; ++i) update_and_multiply_one<T, 1>(a, ld, first, i, v0, w0, v, p);
        T pv = 0;
        for (int j = k + 1; j < n; ++j) pv += p[j] * v[j];
        const T half = tau[k] * tau[k] * pv * T(-0.5);
        for (int j = 0; j <= k; ++j) p[j] = 0;
        for (int j = k + 1; j < n; ++j) p[j] = tau[k] * p[j] + half * v[j];
        T* spare_v = v0;
        T* spare_w = w0;
        v0 = v;
        w0 = p;
        v = spare_v;
        p = spare_w;
        for (int j = 0; j <= k; ++j) v[j] = 0;
    }
}

// z in strips of kLanes rows, [ceil(n / kLanes), n] vectors: entry (row, column) at z[row / kLanes][column][row % kLanes].
// Rows of NS strips become the rows of the product of the reflectors in a.
template <class T, int NS>
static void form_q_strips(const T* a, int n, int64_t ld, const T* tau, Vec<T>* z, int first_row) {
    using V = Vec<T>;
    constexpr int L = kLanes<T>;
    for (int i = 0; i < NS * n; ++i) z[i] = V{};
    for (int r = 0; r < NS * L && first_row + r < n; ++r) z[r / L * n + first_row + r][r % L] = 1;
    for (int k = 0; k < n - 2; ++k) {
        const T* v = a + k * ld;
        V even[NS] = {}, odd[NS] = {};
        int j = k + 1;
        for (; j + 2 <= n; j += 2)
            for (int s = 0; s < NS; ++s) {
                even[s] += v[j] * z[s * n + j];
                odd[s] += v[j + 1] * z[s * n + j + 1];
            }
        if (j < n)
            for (int s = 0; s < NS; ++s) even[s] += v[j] * z[s * n + j];
        for (int s = 0; s < NS; ++s) even[s] = (even[s] + odd[s]) * tau[k];
        for (j = k + 1; j < n; ++j)
            for (int s = 0; s < NS; ++s) z[s * n + j] -= v[j] * even[s];
    }
}

template <class T, int NS>
static void rotate_strips(Vec<T>* z, int n, const T* rotations, const int* low, const int* high, int count) {
    using V = Vec<T>;
    constexpr int L = kLanes<T>;
    for (int q = 0; q < count; ++q) {
        const T* cs = rotations + static_cast<int64_t>(q) * 2 * n * L;
        V carried[NS];
        for (int s = 0; s < NS; ++s) carried[s] = z[s * n + high[q]];
        for (int i = high[q] - 1; i >= low[q]; --i) {
            const T c = cs[2 * i * L], sn = cs[(2 * i + 1) * L];
            for (int s = 0; s < NS; ++s) {
                const V x = z[s * n + i];
                z[s * n + i + 1] = sn * x + c * carried[s];
                carried[s] = c * x - sn * carried[s];
            }
        }
        for (int s = 0; s < NS; ++s) z[s * n + low[q]] = carried[s];
    }
}

// Solves up to kLanes matrices of any size, one after the other but for the QL.
template <class T>
struct StripEigen {
    int n, strips;
    int64_t ld;
    T *a, *tau, *work;
    Vec<T>*z, *d, *e, *rotations;
    static int64_t ld_of(int64_t n) { return padded<T>(n) + (padded<T>(n) % 64 == 0 ? kLanes<T> : 0); }
    static int64_t bytes(int64_t n, int64_t group) {
        const int64_t vectors = group * (n + kLanes<T> - 1) / kLanes<T> * n + group * n + 2 * n + kSweepsKept * 2 * n;
        return (n + 5) * ld_of(n) * static_cast<int64_t>(sizeof(T)) + vectors * TSM_VECTOR_BYTES + 8 * 64;
    }
    StripEigen(int size, int group, Arena& arena) : n(size), strips((size + kLanes<T> - 1) / kLanes<T>), ld(ld_of(size)) {
        a = arena.take<T>(n * ld);
        tau = arena.take<T>(ld);
        work = arena.take<T>(4 * ld);
        z = arena.take<Vec<T>>(int64_t{group} * strips * n);
        d = arena.take<Vec<T>>(n);
        e = arena.take<Vec<T>>(n);
        rotations = arena.take<Vec<T>>(kSweepsKept * 2 * n);
    }
    Vec<T>* strips_of(int lane) { return z + int64_t{lane} * strips * n; }

    // Takes the whole matrix in a as lane's.
    void reduce(int lane) {
        constexpr int L = kLanes<T>;
        tridiagonalize_one<T>(a, n, ld, reinterpret_cast<T*>(d) + lane, reinterpret_cast<T*>(e) + lane, L, tau, work);
        int s = 0;
        for (; s + 2 <= strips; s += 2) form_q_strips<T, 2>(a, n, ld, tau, strips_of(lane) + s * n, s * L);
        for (; s < strips; ++s) form_q_strips<T, 1>(a, n, ld, tau, strips_of(lane) + s * n, s * L);
    }
    // Lanes [0, count) hold matrices.
    void iterate(int count) {
        constexpr int L = kLanes<T>;
        for (int i = 0; i < n; ++i)
            for (int lane = count; lane < L; ++lane) d[i][lane] = e[i][lane] = 0;
        ql_lanes<T>(d, e, n, rotations, [&](const Vec<T>* rot, const int* low, const int* high, int sweeps) {
            for (int lane = 0; lane < count; ++lane) {
                const T* own = reinterpret_cast<const T*>(rot) + lane;
                int s = 0;
                for (; s + 2 <= strips; s += 2) rotate_strips<T, 2>(strips_of(lane) + s * n, n, own, low, high, sweeps);
                for (; s < strips; ++s) rotate_strips<T, 1>(strips_of(lane) + s * n, n, own, low, high, sweeps);
            }
        });
    }
};

static inline double finite_power(double largest) {
    int exponent;
    __builtin_frexp(largest, &exponent);
    return __builtin_ldexp(1.0, -exponent);
}

// How many matrices of size n are solved together, and the workspace for that.
template <class T>
static int eigh_group(int64_t n) {
    if (n <= kLockstep) return kLanes<T>;
    int group = kLanes<T>;
    while (group > 1 && StripEigen<T>::bytes(n, group) > (int64_t{6} << 20)) group /= 2;
    return group;
}

template <class T>
static int64_t eigh_bytes(int64_t n) {
    if (n <= kLockstep) return LaneEigen<T>::bytes(n) + (2 * n * (n | 1) + n) * TSM_VECTOR_BYTES + 4 * 64;
    return StripEigen<T>::bytes(n, eigh_group<T>(n)) + n * 4 + 64;
}

static void point_up_one(double* vectors, int n, int rank) {
    for (int j = 0; j < rank; ++j) {
        double most = 0, entry = 0;
        for (int i = 0; i < n; ++i) {
            const double x = vectors[i * int64_t{rank} + j];
            if (__builtin_fabs(x) > most) most = __builtin_fabs(entry = x);
        }
        if (entry < 0)
            for (int i = 0; i < n; ++i) vectors[i * int64_t{rank} + j] *= -1;
    }
}

// Leading `rank` eigenpairs of count <= eigh_group(n) matrices g[i]: [n, n]; values[i]: [rank], vectors[i]: [n, rank].
// A matrix with NaN or Inf gives NaN.
template <class T>
static void eigh_items(const double* const* g, int count, int n, int rank, double* const* values, double* const* vectors, Arena arena) {
    constexpr int L = kLanes<T>;
    double power[L];
    bool finite[L];
    for (int lane = 0; lane < count; ++lane) {
        double largest = 0, sum = 0;
        for (int64_t i = 0; i < int64_t{n} * n; ++i) {
            sum += g[lane][i] * 0;
            largest = __builtin_fabs(g[lane][i]) > largest ? __builtin_fabs(g[lane][i]) : largest;
        }
        finite[lane] = sum == 0;
        power[lane] = finite[lane] && largest > 0 ? finite_power(largest) : 1;
    }
    auto finish = [&](int lane) {
        point_up_one(vectors[lane], n, rank);
        for (int j = 0; j < rank; ++j) values[lane][j] = finite[lane] ? values[lane][j] / power[lane] : __builtin_nan("");
        if (!finite[lane])
            for (int64_t i = 0; i < int64_t{n} * rank; ++i) vectors[lane][i] = __builtin_nan("");
    };
    if (n <= kLockstep) {
        LaneEigen<T> solver(n, arena);
        Vec<T>* a = arena.take<Vec<T>>(n * solver.ld);
        Vec<T>* lane_values = arena.take<Vec<T>>(n);
        Vec<T>* lane_vectors = arena.take<Vec<T>>(n * n);
        T* as = reinterpret_cast<T*>(a);
        for (int lane = 0; lane < L; ++lane)
            for (int i = 0; i < n; ++i)
                for (int j = 0; j <= i; ++j)
                    as[(i * solver.ld + j) * L + lane] = lane < count && finite[lane] ? static_cast<T>(g[lane][i * n + j] * power[lane]) : 0;
        solver.solve(a, rank, lane_values, lane_vectors);
        for (int lane = 0; lane < count; ++lane) {
            for (int j = 0; j < rank; ++j) values[lane][j] = static_cast<double>(lane_values[j][lane]);
            for (int i = 0; i < n * rank; ++i) vectors[lane][i] = static_cast<double>(lane_vectors[i][lane]);
            finish(lane);
        }
        return;
    }
    StripEigen<T> solver(n, eigh_group<T>(n), arena);
    int* order = arena.take<int>(n);
    for (int lane = 0; lane < count; ++lane) {
        for (int i = 0; i < n; ++i) {
            for (int j = 0; j < n; ++j)
                solver.a[i * solver.ld + j] = finite[lane] ? static_cast<T>(g[lane][int64_t{i} * n + j] * power[lane]) : 0;
            for (int64_t j = n; j < solver.ld; ++j) solver.a[i * solver.ld + j] = 0;
        }
        solver.reduce(lane);
    }
    solver.iterate(count);
    for (int lane = 0; lane < count; ++lane) {
        const T* ds = reinterpret_cast<const T*>(solver.d) + lane;
        const T* zs = reinterpret_cast<const T*>(solver.strips_of(lane));
        descending<T>(ds, n, order);
        for (int j = 0; j < rank; ++j) {
            values[lane][j] = static_cast<double>(ds[order[j] * L]);
            for (int i = 0; i < n; ++i)
                vectors[lane][int64_t{i} * rank + j] = static_cast<double>(zs[(int64_t{i} / L * n + order[j]) * L + i % L]);
        }
        finish(lane);
    }
}
