// An array as Python describes it, and the batch that it is.
#pragma once
#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "plans.h"

namespace tsm {

// (address, dtype, shape [B, I_1, ...], strides in elements)
using Array = std::tuple<uintptr_t, int, std::vector<int64_t>, std::vector<int64_t>>;

// Memory that is there: Python describes a tensor without any (a fake one, say) by the address 0.
template <class T>
T* memory_at(uintptr_t address) {
    if (address == 0) throw std::invalid_argument("an array must have memory");
    return reinterpret_cast<T*>(address);
}

inline TensorBatch batch_of(const Array& array) {
    const auto& [address, dtype, shape, stride] = array;
    const int order = static_cast<int>(shape.size()) - 1;
    if (order < 1 || order > kMaxOrder || stride.size() != shape.size())
        throw std::invalid_argument("an array must have a batch dimension and 1 to 5 modes");
    const bool empty = std::find(shape.begin(), shape.end(), 0) != shape.end();
    if (!empty && address == 0) throw std::invalid_argument("an array that is not empty must have memory");
    if (address % static_cast<uintptr_t>(size_of(static_cast<DType>(dtype))) != 0)
        throw std::invalid_argument("the numbers of an array must be aligned");
    TensorBatch x{
        {reinterpret_cast<const void*>(address), static_cast<DType>(dtype), order, {}, {}}, shape[0], stride[0]};
    for (int i = 0; i < order; ++i) {
        x.first.shape[i] = shape[static_cast<size_t>(i) + 1];
        x.first.stride[i] = stride[static_cast<size_t>(i) + 1];
    }
    return x;
}

// Contiguous doubles of every item: (address, stride between items)
using Shared = std::pair<uintptr_t, int64_t>;

// `modes` are those with a factor; a factor to start from for each of them, or none.
inline HooiOptions options_of(int order, const std::vector<int>& modes, bool given, bool pads) {
    HooiOptions options{{}, given, pads};
    for (int m = 0; m < order; ++m) options.kept[m] = std::find(modes.begin(), modes.end(), m) == modes.end();
    return options;
}
inline HooiStart start_of(const std::vector<int>& modes, const std::vector<Shared>& start, const Shared& padding) {
    HooiStart from{};
    for (size_t i = 0; i < start.size(); ++i) {
        from.factors[modes[i]] = memory_at<const double>(start[i].first);
        from.stride[modes[i]] = start[i].second;
    }
    from.padding = reinterpret_cast<const double*>(padding.first);
    from.padding_stride = padding.second;
    return from;
}

}  // namespace tsm
