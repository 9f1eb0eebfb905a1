"""What a map adds to a network in onnxruntime: EfficientNet-lite0 with `SaliencyHead` beside the network alone.

    .venv/bin/python -m benchmarks.deployed

One thread; the two take turns. The result goes into `benchmarks/results/deployed.json`.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

import tsm_fast
from tsm_fast.bench.machine import processor
from tsm_fast.models import lite0, lite0_inputs
from tsm_fast.nn import SaliencyHead
from tsm_fast.pictures import load_photos

from .other_tools import RESULTS, timed

BATCHES = (1, 8)


class WithMap(nn.Module):
    """A network's scores and, where it has a head, its maps."""

    def __init__(self, net: nn.Sequential, head: nn.Module | None) -> None:
        super().__init__()
        self.features, self.classifier, self.head = net[0], net[1:], head

    def forward(self, images: Tensor) -> Any:
        features = self.features(images)
        scores = self.classifier(features)
        return scores if self.head is None else (scores, self.head(features))


def session(module: nn.Module, example: Tensor) -> onnxruntime.InferenceSession:
    """The module in onnxruntime, with a free batch size."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module, (example,), dynamo=True, dynamic_shapes={"images": {0: "batch"}}, verbose=False
        )
        assert program is not None
        program.save(Path(folder) / "model.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        return onnxruntime.InferenceSession(Path(folder) / "model.onnx", options, providers=["CPUExecutionProvider"])


def main() -> None:
    torch.set_num_threads(1)
    net = lite0()
    images = lite0_inputs([photo.image for photo in load_photos()])
    rows = []
    alone = session(WithMap(net, None).eval(), images[:2])
    for method in ("tsm", "eigencam"):
        both = session(WithMap(net, SaliencyHead(method, size=(224, 224))).eval(), images[:2])
        expected = getattr(tsm_fast, method)(net[0](images).detach(), size=(224, 224)).numpy()
        difference = float(np.abs(both.run(None, {"images": images.numpy()})[1] - expected).max())
        assert difference < 1e-4, difference
        for batch in BATCHES:
            given = {"images": images[:batch].numpy()}
            times = timed({"network": partial(alone.run, None, given), "with map": partial(both.run, None, given)}, 5.0)
            rows.append({"method": method, "batch": batch, "difference": difference, "ms": times})
    run = {
        "machine": processor(),
        "date": date.today().isoformat(),
        "load": "{:.1f}, {:.1f}, {:.1f}".format(*os.getloadavg()),
        "versions": {name: version(name) for name in ("torch", "onnxruntime", "onnxscript")},
        "rows": rows,
    }
    (RESULTS / "deployed.json").write_text(json.dumps(run, indent=1) + "\n")
    for row in rows:
        network, both = row["ms"]["network"]["p50"], row["ms"]["with map"]["p50"]
        print(f"{row['method']}, batch {row['batch']}: {network:.2f} ms, with the map {both:.2f} ms")


if __name__ == "__main__":
    main()
