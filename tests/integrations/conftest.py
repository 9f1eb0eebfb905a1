"""The tests against the tools themselves. pytorch-grad-cam and what it brings lie beside the environment, in a folder
that `make test-integrations` adds to the path: without them its file is not collected.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch

_NEEDS = {"test_grad_cam.py": "pytorch_grad_cam", "test_torchcam.py": "torchcam"}  # the second is for Python 3.11
collect_ignore = [name for name, module in _NEEDS.items() if find_spec(module) is None]

if find_spec("torchvision"):
    # It looks for its compiled operators at import, which are not there beside a CPU build of torch.
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
