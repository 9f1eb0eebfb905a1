"""`SaliencyStage`: maps as a stage of somebody else's pipeline, Ray Data's `map_batches` above all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ... import models
from ...extractor import SaliencyExtractor
from ...pictures.decode import ImageError, Picture, from_value, quiet_decoders
from ...saliency import METHODS
from ..files.shards import OK
from ..settings import Settings


class SaliencyStage:
    """Adds columns of saliency maps to batches of images, one for each method and layer.

    A callable class, as Ray Data wants it: it is made once in each worker, and loads the model there. A batch is a
    mapping of columns; the images are in one of them, as encoded files (bytes) or as pixels `[H, W, 3]` uint8, of one
    size or of several. It comes back with the columns "mtsm/features" and so on, `[B, h, w]` float32, "status" and
    "error" added. An image that cannot be used is a row with its error and maps of NaN: no row is dropped, no batch
    fails for it.

    Args:
        column: the column of the images; None for the first of "bytes" and "image" that is there.
        model, weights, trust_model_code, layers, methods, rank, center, combine, sign, precision, size, max_pixels:
            as in `Settings`.
        device: "auto" (CUDA where there is one), "cpu", "cuda", ...
        backend: of the decompositions.

    Raises:
        TypeError, ValueError: as `Settings`, `models.load` and the extractor do.
        KeyError: on a batch without images.

    >>> import numpy as np
    >>> stage = SaliencyStage(model="lite0", methods=("tsm",))
    >>> stage({"image": np.zeros((2, 80, 100, 3), np.uint8)})["tsm/features"].shape
    (2, 7, 7)

    With Ray Data: `ray.data.read_binary_files("photos", include_paths=True).map_batches(SaliencyStage, batch_size=64,
    fn_constructor_kwargs={"model": "lite0", "methods": ("tsm",)}, compute=ray.data.ActorPoolStrategy(size=2))`.
    """

    def __init__(
        self,
        column: str | None = None,
        *,
        model: str = "lite0",
        layers: Sequence[str] = (),
        methods: Sequence[str] = ("mtsm",),
        device: str = "auto",
        backend: str | None = None,
        **options: Any,
    ) -> None:
        self._settings = Settings("a stage", model=model, layers=tuple(layers), methods=tuple(methods), **options)
        self._column, self._backend = column, backend
        settings = self._settings
        self._model = models.load(
            model, weights=settings.weights, trust_model_code=settings.trust_model_code, size=settings.size
        )
        name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self._device = torch.device(name)
        self._extractor = SaliencyExtractor(self._model.module.to(self._device), list(layers) or None)
        self._blank = torch.zeros_like(self._model.preprocess(Image.new("RGB", (640, 480))))  # [C, H, W]
        self._extractor.features(self._blank[None].to(self._device))  # chooses the layer

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        inputs, errors = self._inputs(batch[self._images(batch)])
        features = self._extractor.features(inputs.to(self._device))
        maps: dict[str, np.ndarray] = {}
        for method in self._settings.methods:
            for layer, found in features.items():
                maps[f"{method}/{layer}"] = self._maps(method, found)
        finite = np.all([np.isfinite(values).all((1, 2)) for values in maps.values()], axis=0)
        for row in np.flatnonzero(~finite).tolist():
            errors.setdefault(row, ("non-finite", "the model gives NaN or Inf, or a map is too large for float32"))
        for values in maps.values():
            values[list(errors)] = np.nan
        told = [errors.get(row, (OK, "")) for row in range(len(inputs))]
        about = {"status": np.array([kind for kind, _ in told]), "error": np.array([text for _, text in told])}
        return {**batch, **maps, **about}

    def _images(self, batch: Mapping[str, Any]) -> str:
        wanted = [self._column] if self._column is not None else ["bytes", "image"]
        for name in wanted:
            if name in batch:
                return name
        raise KeyError(f"a batch needs a column {' or '.join(map(repr, wanted))}, got {', '.join(map(repr, batch))}")

    def _inputs(self, values: Any) -> tuple[Tensor, dict[int, tuple[str, str]]]:
        """Inputs [B, C, H, W], blank where an image cannot be used, and the kind and text of these errors by row."""
        inputs = self._blank.repeat(len(values), 1, 1, 1)
        errors = {}
        with quiet_decoders():
            for row, value in enumerate(values):
                try:
                    inputs[row] = self._input(value)
                except ImageError as error:
                    errors[row] = error.kind, str(error)
        return inputs, errors

    def _input(self, value: Any) -> Tensor:  # [C, H, W]
        found = from_value(value, self._settings.max_pixels)
        if isinstance(found, Picture):
            try:
                found = self._model.preprocess(found.image)
            except MemoryError:
                raise
            except Exception as error:  # transforms of others raise anything
                raise ImageError("preprocess", f"{type(error).__name__}: {error}") from None
        if found.shape != self._blank.shape:
            raise ImageError("shape", f"inputs must be {list(self._blank.shape)}, got {list(found.shape)}")
        return found

    def _maps(self, method: str, features: Tensor) -> np.ndarray:  # [B, h, w] float32
        settings = self._settings
        made = METHODS[method].function(
            features,
            nan="propagate",
            normalize=False,
            precision=settings.precision,
            backend=self._backend,
            **settings.options(method),
        )
        return made.to("cpu", torch.float32).numpy()
