"""Maps from CUDA graphs: captured at the first call with features of a kind, replayed at later ones."""

import threading
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .steps.capture import as_captured, is_captured

DEVICE = "cuda"
MOST = 16  # kinds of features that have a graph

Maps = dict[str, Tensor]  # by their names
Compute = Callable[[Tensor, Any], Maps]


class _Captured(NamedTuple):
    graph: torch.cuda.CUDAGraph
    features: Tensor  # what it reads
    maps: Maps  # what it writes
    unseen: Tensor  # whether a map of them is NaN


class Graphs:
    """What `compute(features, size)` gives, always the same function, by graphs.

    The host waits once, after the replay: NaN in a map may be of what it would have looked at. The maps are computed
    without a graph then, and errors raised; so are those of further kinds of features than `MOST`.
    """

    def __init__(self) -> None:
        self._captured: dict[Hashable, _Captured] = {}
        self._places: dict[torch.device, tuple[torch.cuda.Stream, Any]] = {}
        self._lock = threading.Lock()  # every call writes into the memory of its graph

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Graphs, ()  # a copy captures its own

    def __call__(self, compute: Compute, features: Tensor, size: Any) -> Maps:
        if features.device.type != DEVICE:
            raise RuntimeError(f"cuda_graph=True needs features on a GPU, got them on {features.device}")
        if is_captured(features):  # the caller's own graph takes it
            return compute(features, size)
        kind = features.shape, features.stride(), features.dtype, features.device, size
        with self._lock, torch.cuda.device_of(features):
            captured = self._captured.get(kind)
            if captured is None and len(features) and len(self._captured) < MOST:
                captured = self._captured[kind] = self._capture(compute, features, size)
            if captured is not None:
                captured.features.copy_(features)
                captured.graph.replay()
                maps = {name: made.clone() for name, made in captured.maps.items()}
                if not bool(captured.unseen):
                    return maps
        return compute(features, size)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _capture(self, compute: Compute, features: Tensor, size: Any) -> _Captured:
        """As torch.cuda.make_graphed_callables does it: on a side stream, after a call that loads all kernels.

        Graphs of a device share the memory for what they hold meanwhile, since no two of them run at a time.
        """
        device = features.device
        if device not in self._places:
            self._places[device] = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()
        stream, pool = self._places[device]
        own, graph = torch.empty_like(features, requires_grad=False), torch.cuda.CUDAGraph()

        def run() -> tuple[Maps, Tensor]:
            maps = compute(own, size)
            return maps, torch.stack([made.isnan().any() for made in maps.values()]).any()

        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream), as_captured():
            own.copy_(features)
            run()
        torch.cuda.current_stream(device).wait_stream(stream)
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            maps, unseen = run()
        return _Captured(graph, own, maps, unseen)
