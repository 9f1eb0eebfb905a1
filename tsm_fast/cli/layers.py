"""`tsm-fast layers`: which layers of a model can be read."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from typing import Annotated

import torch
import typer
from PIL import Image
from rich.console import Console

from .. import models
from ..layers import choose_layer, spatial_layers
from . import options
from .common import errors


def layers(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="As for `tsm-fast extract --model`.")],
    weights: options.Weights = None,
    trust_model_code: options.TrustModelCode = False,
    size: options.Size = None,
    as_json: options.AsJson = False,
) -> None:
    """The layers of a model that give feature maps, in the order in which they run, and the one chosen by itself."""
    with errors(), redirect_stdout(sys.stderr):
        loaded = models.load(model, weights=weights, trust_model_code=trust_model_code, size=size)
        pixels = loaded.preprocess(Image.new("RGB", (640, 480), (124, 116, 104)))[None]  # [1, 3, H, W]

        def forward() -> None:
            with torch.no_grad():
                loaded.module(pixels)

        found = spatial_layers(loaded.module, forward)
        try:
            chosen, reason = choose_layer(loaded.module, forward)
        except ValueError as error:
            chosen, reason = None, str(error)
    if as_json:
        rows = [
            {name: value for name, value in layer._asdict().items() if name != "layout" or value} for layer in found
        ]
        print(json.dumps({"model": model, "chosen": chosen, "reason": reason, "layers": rows}, indent=2))
        return
    console = Console(highlight=False)
    names = [f"{'*' if layer.name == chosen else ' '} {layer.name}" for layer in found]
    width, kinds = max(map(len, names), default=0), max((len(layer.kind) for layer in found), default=0)
    for name, layer in zip(names, found, strict=True):
        shape = "x".join(map(str, layer.shape)) + (f" ({layer.layout})" if layer.layout else "")
        console.print(f"{name:<{width}}  {layer.kind:<{kinds}}  {shape}", markup=False, soft_wrap=True)
    said = reason if chosen is None else f"* is read where no layer is named: {reason}"
    console.print(said, markup=False, soft_wrap=True)
