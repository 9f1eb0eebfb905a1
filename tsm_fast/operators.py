"""Registers the operators of PyTorch, for programs that were exported elsewhere: `import tsm_fast.operators`.

`torch.ops.tsm_fast` then has `saliency`, `tucker`, `hosvd`, `truncated_svd`, `eigh` and `multi_mode_dot`.
"""

from __future__ import annotations

from . import decomposition as decomposition
from . import modes as modes
from . import saliency as saliency
