// The module of the CUDA backend: addresses in, launches out. `tsm_fast.native_cuda` wraps it.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/array.h"
#include "cuda/steps.h"
#ifdef TSM_EMULATION
#include "emulation_bindings.h"
#endif

// The tests' build that runs the kernels on a CPU has another name and takes CPU tensors.
#ifdef TSM_EMULATION
#define TSM_CUDA_MODULE cuda_emulation
#define TSM_CUDA_DEVICE "cpu"
#else
#define TSM_CUDA_MODULE _cuda
#define TSM_CUDA_DEVICE "cuda"
#endif

namespace py = pybind11;
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

HooiPlan plan_of(const std::vector<int64_t>& shape, const std::vector<int64_t>& rank, int n_iter_max, double tol,
                 bool sign_v) {
    if (shape.size() > kMaxOrder || rank.size() != shape.size())
        throw std::invalid_argument("rank must have one number for each of at most 5 modes");
    HooiPlan plan{};
    plan.order = static_cast<int>(shape.size());
    plan.n_iter_max = n_iter_max;
    plan.tol = tol;
    plan.sign_v = sign_v;
    plan.big = -1;
    for (int i = 0; i < plan.order; ++i) {
        plan.shape[i] = shape[static_cast<size_t>(i)];
        plan.rank[i] = rank[static_cast<size_t>(i)];
    }
    for (int i = 0; i < plan.order; ++i)
        if (plan.order > 1 && plan.shape[i] > plan.others_size(i)) plan.big = i;
    return plan;
}

}  // namespace

PYBIND11_MODULE(TSM_CUDA_MODULE, m) {
    m.doc() = "Compiled CUDA steps of tsm_fast; tsm_fast.native_cuda wraps them.";
    m.attr("device_type") = TSM_CUDA_DEVICE;
    m.attr("small") = kSmall;
    m.attr("largest") = kLargest;
#ifdef TSM_EMULATION
    emulation_bindings(m);
#endif
    const auto release = py::call_guard<py::gil_scoped_release>();

    m.def(
        "mode_gram",
        [](const Array& x, int mode, bool center, uintptr_t out, bool wide, uintptr_t skip, uintptr_t stream) {
            mode_gram(batch_of(x), mode, center, output(out, wide), at<bool>(skip), at<void>(stream));
        },
        release);
    m.def("truncated_svd_workspace", &truncated_svd_workspace);
    m.def(
        "truncated_svd",
        [](uintptr_t gram, bool wide_gram, int64_t batch, int n, int rank, bool wide, uintptr_t values,
           uintptr_t vectors, bool wide_out, uintptr_t skip, uintptr_t workspace, int64_t bytes, uintptr_t stream) {
            truncated_svd(at<void>(gram), wide_gram, batch, n, rank, wide, output(values, wide_out),
                          output(vectors, wide_out), at<bool>(skip), at<void>(workspace), bytes, at<void>(stream));
        },
        release);
    m.def(
        "core_contraction",
        [](const Array& x, int mode, uintptr_t factor, int64_t r, uintptr_t out, bool wide, uintptr_t stream) {
            core_contraction(batch_of(x), mode, at<double>(factor), r, output(out, wide), at<void>(stream));
        },
        release);
    m.def("hooi_big_mode", [](const std::vector<int64_t>& shape) { return plan_of(shape, shape, 1, 0, false).big; });
    m.def("hooi_workspace", [](const std::vector<int64_t>& shape, const std::vector<int64_t>& rank) {
        return hooi_workspace(plan_of(shape, rank, 1, 0, false));
    });
    m.def(
        "hooi",
        [](const Array& x, const std::vector<int64_t>& rank, int n_iter_max, double tol, bool sign_v, uintptr_t gram,
           uintptr_t core, const std::vector<uintptr_t>& factors, const std::vector<uintptr_t>& values,
           uintptr_t responses, bool wide, uintptr_t errors, uintptr_t n_sweeps, uintptr_t converged, uintptr_t finite,
           uintptr_t workspace, int64_t bytes, uintptr_t stream) {
            const TensorBatch batch = batch_of(x);
            const std::vector<int64_t> shape(batch.first.shape, batch.first.shape + batch.first.order);
            HooiOutput out{};
            out.core = output(core, wide);
            for (size_t i = 0; i < factors.size(); ++i) {
                out.factors[i] = output(factors[i], wide);
                out.singular_values[i] = output(values[i], wide);
            }
            out.responses = output(responses, true);
            out.errors = at<double>(errors);
            out.n_sweeps = at<int64_t>(n_sweeps);
            out.converged = at<bool>(converged);
            out.finite = at<bool>(finite);
            hooi(batch, plan_of(shape, rank, n_iter_max, tol, sign_v), at<double>(gram), out, at<void>(workspace),
                 bytes, at<void>(stream));
        },
        release);
    m.def(
        "leading_small",
        [](const Array& x, bool center, uintptr_t maps, bool wide, uintptr_t settled, uintptr_t finite,
           uintptr_t stream) {
            leading_small(batch_of(x), center, output(maps, wide), at<bool>(settled), at<bool>(finite),
                          at<void>(stream));
        },
        release);
    m.def("leading_workspace", &leading_workspace);
    m.def(
        "leading_large",
        [](const Array& x, bool center, uintptr_t maps, bool wide, uintptr_t settled, uintptr_t finite,
           uintptr_t workspace, int64_t bytes, uintptr_t stream) {
            leading_large(batch_of(x), center, output(maps, wide), at<bool>(settled), at<bool>(finite),
                          at<void>(workspace), bytes, at<void>(stream));
        },
        release);
    m.def(
        "extremes",
        [](const Array& x, bool transposed, bool center, uintptr_t vectors, int n, uintptr_t out, uintptr_t skip,
           uintptr_t stream) {
            extremes(batch_of(x), transposed, center, at<double>(vectors), n, at<double>(out), at<bool>(skip),
                     at<void>(stream));
        },
        release);
    m.def(
        "finish",
        [](uintptr_t maps, uintptr_t out, int64_t batch, int height, int width, int rows, int columns, bool normalize,
           double noise, bool wide, uintptr_t stream) {
            finish(at<void>(maps), batch, height, width, rows, columns, normalize, noise, output(out, wide),
                   at<void>(stream));
        },
        release);
    m.def(
        "sign_single",
        [](const Array& x, bool center, int sign, uintptr_t maps, bool wide, uintptr_t stream) {
            sign_single(batch_of(x), center, static_cast<Sign>(sign), output(maps, wide), at<void>(stream));
        },
        release);
    m.def(
        "combine_positions",
        [](uintptr_t values, uintptr_t vectors, uintptr_t signs, int64_t batch, int64_t positions, int n, int how,
           uintptr_t maps, bool wide, uintptr_t finite, uintptr_t skip, uintptr_t stream) {
            combine_positions(at<double>(values), at<double>(vectors), at<double>(signs), batch, positions, n,
                              static_cast<Combine>(how), output(maps, wide), at<bool>(finite), at<bool>(skip),
                              at<void>(stream));
        },
        release);
    m.def(
        "combine_channels",
        [](const Array& x, uintptr_t values, uintptr_t vectors, uintptr_t signs, int n, int how, uintptr_t maps,
           bool wide, uintptr_t finite, uintptr_t skip, uintptr_t stream) {
            combine_channels(batch_of(x), at<double>(values), at<double>(vectors), at<double>(signs), n,
                             static_cast<Combine>(how), output(maps, wide), at<bool>(finite), at<bool>(skip),
                             at<void>(stream));
        },
        release);
}
