"""The options of the forward pass on a CPU: EfficientNet-lite0 with its weights, and a ResNet-50 with random ones.

    python -m benchmarks.forward [--rounds 7] [--out benchmarks/results/forward.json]

One thread, 16 inputs of 224 x 224, as a worker of `tsm-fast extract` computes them; processor time in turn, medians.
The deviation is that of the features from those of plain float32, over the largest of these. ResNet-50 is that of
transformers.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tsm_fast import SaliencyExtractor, models
from tsm_fast.models.forward import Forward
from tsm_fast.models.lite0 import lite0_inputs
from tsm_fast.pictures import load_photos
from tsm_fast.pipeline.worker.network import keep_memory

BATCH = 16
WAYS: dict[str, dict[str, Any]] = {
    "float32": {},
    "channels_last": {"channels_last": True},
    "compile": {"compile": True},
    "channels_last, compile": {"channels_last": True, "compile": True},
    "channels_last, bfloat16": {"channels_last": True, "autocast": "bfloat16"},
}


class ResNet50(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        # Transformers looks for a package of this name, and would find the folder of ours.
        sys.modules.setdefault("kernels", None)  # pyright: ignore[reportArgumentType]
        from transformers import ResNetConfig, ResNetModel

        torch.manual_seed(0)
        self.network = ResNetModel(ResNetConfig())

    def forward(self, images: Tensor) -> Any:
        return self.network(images)


NETWORKS: dict[str, Callable[[], nn.Module]] = {"lite0": lambda: models.load("lite0").module, "ResNet-50": ResNet50}
LAYERS = {"lite0": "features", "ResNet-50": "network.encoder.stages.3"}


def seconds(call: Callable[[], object]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


def measure(network: nn.Module, layer: str, rounds: int) -> dict[str, Any]:
    photos = [photo.image for photo in load_photos()]
    inputs = lite0_inputs([photos[number % len(photos)] for number in range(BATCH)])
    ways, first, times = {}, {}, {way: list[float]() for way in WAYS}
    for way, options in WAYS.items():
        own = copy.deepcopy(network)
        ways[way] = Forward(SaliencyExtractor(own, layer), own, **options)
        started = time.monotonic()
        first[way] = (ways[way](inputs, BATCH)[layer].float(), time.monotonic() - started)
    for _ in range(rounds):
        for way, forward in ways.items():
            times[way].append(seconds(lambda forward=forward: forward(inputs, BATCH)))
    plain = first["float32"][0]
    typical = {way: statistics.median(values) for way, values in times.items()}
    return {
        way: {
            "ms": round(1e3 * typical[way] / BATCH, 2),
            "of_float32": round(typical[way] / typical["float32"], 3),
            "deviation": float(f"{float((first[way][0] - plain).abs().max() / plain.abs().max()):.1e}"),
            "first_call_s": round(first[way][1], 1),
        }
        for way in WAYS
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    result: dict[str, Any] = {
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "batch": BATCH,
        "networks": {name: measure(make().eval(), LAYERS[name], given.rounds) for name, make in NETWORKS.items()},
    }
    print(json.dumps(result, indent=1))
    if given.out is not None:
        given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
