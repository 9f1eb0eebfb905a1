"""`SaliencyStage`: maps as a stage of somebody else's pipeline, Ray Data's `map_batches` above all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from ... import models
from ...extractor import SaliencyExtractor
from ...models.forward import Forward
from ...pictures.decode import quiet_decoders
from ...variants import DEFAULT, variant
from ..computation import Problem
from ..files.run import STAGES
from ..files.shards import OK
from ..settings import Settings
from .inputs import Inputs
from .maps import CPU_BATCH, Batches, Maps
from .network import device_of


class SaliencyStage:
    """Adds columns of saliency maps to batches of images, one for each method and layer.

    A callable class, as Ray Data wants it: it is made once in each worker, and loads the model there. A batch is a
    mapping of columns; the images are in one of them, as encoded files (bytes) or as pixels `[H, W, 3]` uint8, of one
    size or of several. It comes back with the columns "mtsm/features" and so on, `[B, h, w]` float32, "status" and
    "error" added. An image that cannot be used is a row with its error and maps of NaN: no row is dropped, no batch
    fails for it.

    Args:
        column: the column of the images; None for the first of "bytes" and "image" that is there.
        model, weights, trust_model_code, layers, methods, rank, center, combine, sign, precision, size, fit,
            max_pixels, channels_last (None: no), autocast, compile: as in `Settings`.
        device: "auto" (CUDA where there is one), "cpu", "cuda", ...
        backend: of the decompositions.

    Raises:
        TypeError, ValueError: as `Settings`, `models.load` and the extractor do.
        KeyError: on a batch without images.

    >>> import numpy as np
    >>> stage = SaliencyStage(model="lite0", methods=(DEFAULT,))
    >>> stage({"image": np.zeros((2, 80, 100, 3), np.uint8)})["tsm/features"].shape
    (2, 7, 7)

    With Ray Data: `ray.data.read_binary_files("photos", include_paths=True).map_batches(SaliencyStage, batch_size=64,
    fn_constructor_kwargs={"model": "lite0", "methods": (DEFAULT,)}, compute=ray.data.ActorPoolStrategy(size=2))`.
    """

    def __init__(
        self,
        column: str | None = None,
        *,
        model: str = "lite0",
        layers: Sequence[str] = (),
        methods: Sequence[str] = (DEFAULT,),
        device: str = "auto",
        backend: str | None = None,
        **options: Any,
    ) -> None:
        settings = Settings("a stage", model=model, layers=tuple(layers), methods=tuple(methods), **options)
        loaded = models.load(model, **settings.loading)
        where = device_of(device)
        extractor = SaliencyExtractor(
            loaded.module.to(where), list(layers) or None, reshape_transform=settings.reshape_transform
        )
        shape = loaded.preprocess(Image.new("RGB", (640, 480))).shape
        extractor.features(torch.zeros(1, *shape, device=where))  # chooses the layer
        columns = [(method, layer) for method in settings.methods for layer in extractor.layers]
        functions = {name: partial(variant(name).function, **settings.options(name)) for name in settings.methods}
        largest = CPU_BATCH if where.type == "cpu" else None
        self._column = column
        self._inputs = Inputs(loaded.preprocess, shape, settings.max_pixels)
        forward = Forward(
            extractor,
            loaded.module,
            channels_last=bool(settings.channels_last),
            autocast=settings.autocast,
            compile=settings.compile,
        )
        maps = Maps(forward, columns, functions, settings.precision, where, backend)
        self._batches = Batches(maps, largest)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        with quiet_decoders():
            slots = [self._inputs.read(lambda value=value: value) for value in batch[self._images(batch)]]
        maps, problems = self._batches.made(self._inputs.batch(slots), dict.fromkeys(STAGES, 0.0))
        rows = [slot.problem or problems.get(row) or Problem(OK, "") for row, slot in enumerate(slots)]
        bad = [row for row, problem in enumerate(rows) if problem.kind != OK]
        for values in maps.values():
            values[bad] = np.nan
        about = {"status": np.array([row.kind for row in rows]), "error": np.array([row.message for row in rows])}
        return {**batch, **maps, **about}

    def _images(self, batch: Mapping[str, Any]) -> str:
        wanted = [self._column] if self._column is not None else ["bytes", "image"]
        for name in wanted:
            if name in batch:
                return name
        raise KeyError(f"a batch needs a column {' or '.join(map(repr, wanted))}, got {', '.join(map(repr, batch))}")
