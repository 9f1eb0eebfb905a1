// The module of the CUDA backend: addresses in, launches out. `tsm_fast.steps.cuda` wraps it.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/array.h"
#include "bindings/codes.h"
#include "cuda/steps.h"
#ifdef TSM_EMULATION
#include "emulation_bindings.h"
#endif

// The tests' build that runs the kernels on a CPU has another name and takes CPU tensors.
#ifdef TSM_EMULATION
#define TSM_CUDA_MODULE cuda_emulation
#else
#define TSM_CUDA_MODULE _cuda
#endif

namespace py = pybind11;
using namespace pybind11::literals;
using namespace tsm;
using namespace tsm::cuda;

namespace {

template <class T>
T* at(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}
Output output(uintptr_t address, bool wide) {
    return {at<void>(address), wide};
}

HooiPlan plan_of(const std::vector<int64_t>& shape, const std::vector<int64_t>& rank, const HooiOptions& options,
                 int n_iter_max = 1, double tol = 0, bool sign_v = false) {
    if (shape.size() > kMaxOrder || rank.size() != shape.size())
        throw std::invalid_argument("rank must have one number for each of at most 5 modes");
    return plan_hooi(static_cast<int>(shape.size()), shape.data(), rank.data(), n_iter_max, tol, sign_v, options);
}

}  // namespace

PYBIND11_MODULE(TSM_CUDA_MODULE, m) {
    m.doc() = "Compiled CUDA steps of tsm_fast; tsm_fast.steps.cuda wraps them.";
    export_codes(m);
    m.attr("small") = kSmall;
    m.attr("largest") = kLargest;
#ifdef TSM_EMULATION
    emulation_bindings(m);
#endif
    const py::kw_only named;
    const auto release = py::call_guard<py::gil_scoped_release>();

    m.def(
        "mode_gram",
        [](const Array& x, int mode, bool center, uintptr_t out, bool wide, uintptr_t skip, uintptr_t stream) {
            mode_gram(batch_of(x), mode, center, output(out, wide), at<bool>(skip), at<void>(stream));
        },
        "x"_a, "mode"_a, named, "center"_a, "out"_a, "wide"_a, "skip"_a, "stream"_a, release);
    m.def("truncated_svd_workspace", &truncated_svd_workspace, "n"_a, "batch"_a, "wide"_a);
    m.def(
        "truncated_svd",
        [](uintptr_t gram, bool wide_gram, int64_t batch, int n, int rank, bool wide, uintptr_t values,
           uintptr_t vectors, bool wide_out, uintptr_t skip, uintptr_t workspace, int64_t bytes, uintptr_t stream) {
            truncated_svd(at<void>(gram), wide_gram, batch, n, rank, wide, output(values, wide_out),
                          output(vectors, wide_out), at<bool>(skip), at<void>(workspace), bytes, at<void>(stream));
        },
        "gram"_a, named, "wide_gram"_a, "batch"_a, "n"_a, "rank"_a, "wide"_a, "values"_a, "vectors"_a, "wide_out"_a,
        "skip"_a, "workspace"_a, "bytes"_a, "stream"_a, release);
    m.def(
        "core_contraction",
        [](const Array& x, int mode, uintptr_t factor, int64_t rank, uintptr_t out, bool wide, uintptr_t stream) {
            core_contraction(batch_of(x), mode, at<double>(factor), rank, output(out, wide), at<void>(stream));
        },
        "x"_a, "mode"_a, named, "factor"_a, "rank"_a, "out"_a, "wide"_a, "stream"_a, release);
    // The mode whose others' Gram matrix is wanted, or -1, and the bytes of workspace for an item.
    m.def(
        "hooi_needs",
        [](const std::vector<int64_t>& shape, const std::vector<int64_t>& rank, const std::vector<int>& modes,
           bool given, bool pads) {
            const HooiPlan plan = plan_of(shape, rank, options_of(static_cast<int>(shape.size()), modes, given, pads));
            return std::make_pair(plan.big, hooi_workspace(plan));
        },
        "shape"_a, "rank"_a, named, "modes"_a, "given"_a, "pads"_a);
    m.def(
        "hooi",
        [](const Array& x, const std::vector<int64_t>& rank, const std::vector<int>& modes,
           const std::vector<Shared>& start, const Shared& padding, int n_iter_max, double tol, bool sign_v,
           uintptr_t gram, uintptr_t core, const std::vector<uintptr_t>& factors,
           const std::vector<uintptr_t>& singular_values, uintptr_t responses, bool wide, uintptr_t errors,
           uintptr_t n_sweeps, uintptr_t converged, uintptr_t finite, uintptr_t workspace, int64_t bytes,
           uintptr_t stream) {
            const TensorBatch batch = batch_of(x);
            const std::vector<int64_t> shape(batch.first.shape, batch.first.shape + batch.first.order);
            HooiOutput out{};
            out.core = output(core, wide);
            for (size_t i = 0; i < modes.size(); ++i) {
                out.factors[modes[i]] = output(factors[i], wide);
                out.singular_values[modes[i]] = output(singular_values[i], wide);
            }
            out.responses = output(responses, true);
            out.errors = at<double>(errors);
            out.n_sweeps = at<int64_t>(n_sweeps);
            out.converged = at<bool>(converged);
            out.finite = at<bool>(finite);
            const HooiOptions options = options_of(batch.first.order, modes, !start.empty(), padding.first != 0);
            hooi(batch, plan_of(shape, rank, options, n_iter_max, tol, sign_v), at<double>(gram),
                 start_of(modes, start, padding), out, at<void>(workspace), bytes, at<void>(stream));
        },
        "x"_a, "rank"_a, named, "modes"_a, "start"_a, "padding"_a, "n_iter_max"_a, "tol"_a, "sign_v"_a, "gram"_a,
        "core"_a, "factors"_a, "singular_values"_a, "responses"_a, "wide"_a, "errors"_a, "n_sweeps"_a, "converged"_a,
        "finite"_a, "workspace"_a, "bytes"_a, "stream"_a, release);
    m.def(
        "leading_small",
        [](const Array& x, bool center, uintptr_t maps, bool wide, uintptr_t settled, uintptr_t finite,
           uintptr_t stream) {
            leading_small(batch_of(x), center, output(maps, wide), at<bool>(settled), at<bool>(finite),
                          at<void>(stream));
        },
        "x"_a, named, "center"_a, "maps"_a, "wide"_a, "settled"_a, "finite"_a, "stream"_a, release);
    m.def("leading_workspace", &leading_workspace, "channels"_a, "positions"_a);
    m.def(
        "leading_large",
        [](const Array& x, bool center, uintptr_t maps, bool wide, uintptr_t settled, uintptr_t finite,
           uintptr_t workspace, int64_t bytes, uintptr_t stream) {
            leading_large(batch_of(x), center, output(maps, wide), at<bool>(settled), at<bool>(finite),
                          at<void>(workspace), bytes, at<void>(stream));
        },
        "x"_a, named, "center"_a, "maps"_a, "wide"_a, "settled"_a, "finite"_a, "workspace"_a, "bytes"_a, "stream"_a,
        release);
    m.def(
        "extremes",
        [](const Array& x, bool transposed, bool center, uintptr_t vectors, int n, uintptr_t out, uintptr_t skip,
           uintptr_t stream) {
            extremes(batch_of(x), transposed, center, at<double>(vectors), n, at<double>(out), at<bool>(skip),
                     at<void>(stream));
        },
        "x"_a, named, "transposed"_a, "center"_a, "vectors"_a, "n"_a, "out"_a, "skip"_a, "stream"_a, release);
    m.def(
        "finish",
        [](uintptr_t maps, uintptr_t out, int64_t batch, int height, int width, int rows, int columns, bool normalize,
           double noise, bool wide, uintptr_t stream) {
            finish(at<void>(maps), batch, height, width, rows, columns, normalize, noise, output(out, wide),
                   at<void>(stream));
        },
        "maps"_a, "out"_a, named, "batch"_a, "height"_a, "width"_a, "rows"_a, "columns"_a, "normalize"_a, "noise"_a,
        "wide"_a, "stream"_a, release);
    m.def(
        "sign_single",
        [](const Array& x, bool center, int sign, bool relu, uintptr_t maps, bool wide, uintptr_t stream) {
            sign_single(batch_of(x), center, static_cast<Sign>(sign), relu, output(maps, wide), at<void>(stream));
        },
        "x"_a, named, "center"_a, "sign"_a, "relu"_a, "maps"_a, "wide"_a, "stream"_a, release);
    m.def(
        "combine_positions",
        [](uintptr_t values, uintptr_t vectors, uintptr_t signs, int64_t batch, int64_t positions, int n, int how,
           uintptr_t maps, bool wide, uintptr_t finite, uintptr_t skip, uintptr_t stream) {
            combine_positions(at<double>(values), at<double>(vectors), at<double>(signs), batch, positions, n,
                              static_cast<Combine>(how), output(maps, wide), at<bool>(finite), at<bool>(skip),
                              at<void>(stream));
        },
        named, "values"_a, "vectors"_a, "signs"_a, "batch"_a, "positions"_a, "n"_a, "how"_a, "maps"_a, "wide"_a,
        "finite"_a, "skip"_a, "stream"_a, release);
    m.def(
        "combine_channels",
        [](const Array& x, uintptr_t values, uintptr_t vectors, uintptr_t signs, int n, int how, uintptr_t maps,
           bool wide, uintptr_t finite, uintptr_t skip, uintptr_t stream) {
            combine_channels(batch_of(x), at<double>(values), at<double>(vectors), at<double>(signs), n,
                             static_cast<Combine>(how), output(maps, wide), at<bool>(finite), at<bool>(skip),
                             at<void>(stream));
        },
        "x"_a, named, "values"_a, "vectors"_a, "signs"_a, "n"_a, "how"_a, "maps"_a, "wide"_a, "finite"_a, "skip"_a,
        "stream"_a, release);
}
