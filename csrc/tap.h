// Bilinear resizing of a row or column.
#pragma once
#include "tensor_batch.h"

namespace tsm {

// Where entry i of a row or column of `to` comes from, which is resized from one of `from`: (1 - weight) of the first
// and weight of the second. Bilinear, pixels as areas (align_corners=False of torch.nn.functional.interpolate).
struct Tap {
    int first, second;
    double weight;
};
TSM_HOST_DEVICE inline Tap tap(int i, int from, int to) {
    const double at = (i + 0.5) * (static_cast<double>(from) / to) - 0.5, inside = at > 0 ? at : 0.0;
    const int first = static_cast<int>(inside) < from - 1 ? static_cast<int>(inside) : from - 1;
    return {first, first + 1 < from ? first + 1 : first, inside - first};
}

}  // namespace tsm
