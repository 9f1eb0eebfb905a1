// The codes of dtypes, methods, signs and combinations by their names in Python.
#pragma once
#include <pybind11/pybind11.h>

#include <initializer_list>
#include <utility>

#include "plans.h"

namespace tsm {

template <class Code>
pybind11::dict by_name(std::initializer_list<std::pair<const char*, Code>> codes) {
    pybind11::dict found;
    for (const auto& [name, code] : codes) found[name] = static_cast<int>(code);
    return found;
}

inline void export_codes(pybind11::module_& m) {
    m.attr("dtypes") = by_name<DType>(
        {{"float16", DType::f16}, {"bfloat16", DType::bf16}, {"float32", DType::f32}, {"float64", DType::f64}});
    m.attr("methods") = by_name<Method>({{"eigencam", Method::eigencam},
                                         {"tsm", Method::tsm},
                                         {"multivec_eigencam", Method::multivec_eigencam},
                                         {"mtsm", Method::mtsm},
                                         {"mean_activation", Method::mean_activation}});
    m.attr("signs") = by_name<Sign>({{"u", Sign::u}, {"v", Sign::v}, {"absmax", Sign::absmax}, {"sum", Sign::sum}});
    m.attr("combinations") = by_name<Combine>({{"leading", Combine::leading},
                                               {"signed", Combine::signed_sum},
                                               {"absolute", Combine::absolute_sum},
                                               {"uncut", Combine::uncut_sum}});
}

}  // namespace tsm
