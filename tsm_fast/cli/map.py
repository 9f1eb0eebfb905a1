"""`tsm-fast map`: the overlays of a few pictures."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image
from rich.console import Console

from .. import models
from ..extractor import SaliencyExtractor
from ..layers import is_glob
from ..models.load import check_name
from ..pictures.drawing import COLORMAP, STRENGTH, check_opacity, palette
from ..pictures.show import overlay
from ..pipeline.results.pictures import REGIONS, part_of
from ..pipeline.settings import Settings
from ..variants import DEFAULT
from . import options
from .common import errors

FILES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")  # endings with which --out names a file


def map_(
    pictures: Annotated[list[Path], typer.Argument(metavar="PICTURE...", help="Picture files.")],
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            "--method",
            help="eigencam, tsm (default), multivec_eigencam, mtsm or mean_activation, also with options, as in "
            "mtsm:combine=absolute,rank=16x4x4, or what other packages add (`tsm-fast info`); repeatable, an "
            "overlay each.",
        ),
    ] = None,
    model: options.Model = "lite0",
    layer: Annotated[
        str | None, typer.Option("--layer", "-l", help="See `tsm-fast layers`; chosen by default.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File for one overlay, or a folder. Default: PICTURE.METHOD.png here."),
    ] = None,
    opacity: Annotated[float, typer.Option(help="Of the colours, in 0..1; more for dark pictures.")] = STRENGTH,
    colormap: Annotated[str, typer.Option(help="A colour map of cmap, such as viridis, turbo or jet.")] = COLORMAP,
    weights: options.Weights = None,
    trust_model_code: options.TrustModelCode = False,
    size: options.Size = None,
    fit: options.Fit = None,
    reshape: options.Reshape = "auto",
    region: Annotated[
        str | None,
        typer.Option(help="Where it is not known what part of a picture the network sees: center or whole."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """The saliency map of a picture, or of a few, in colour over the whole picture."""
    with errors(2):
        asked = tuple(methods or (DEFAULT,))
        settings = Settings("pictures", model=model, methods=asked, reshape=reshape, size=size, fit=fit)
        check_name(model)
        check_opacity(opacity)
        palette(colormap)
        if region is not None and region not in REGIONS:
            raise ValueError(f"region must be {' or '.join(REGIONS)}, got {region!r}")
        files = _files(pictures, asked, out)
    with errors(), redirect_stdout(sys.stderr):
        for picture in pictures:
            picture.open("rb").close()  # before a model is loaded
        found = models.load(model, weights=weights, trust_model_code=trust_model_code, size=size, fit=fit)
        extract = SaliencyExtractor(
            found.module, layer, asked, reshape_transform=settings.reshape_transform, transform=found.preprocess
        )
        if len(names := list(extract.layers)) > 1:
            raise ValueError(f"layer must name one layer, got {layer!r}, which is {', '.join(names)}")
        for picture in pictures:
            maps = extract(picture)
            maps = maps[names[0]] if is_glob(layer) else maps
            record = {**found.preprocess.record(), "input": [3, *maps[asked[0]].shape[1:]]}
            seen = part_of(record, region, f"{model} has a preprocessing")
            for method in asked:
                if not maps[method].any():
                    Console(stderr=True, highlight=False).print(
                        f"tsm-fast: the map {method} of {picture} is constant: nothing stands out in it",
                        markup=False,
                        soft_wrap=True,
                    )
                drawn = overlay(picture, maps[method][0], opacity=opacity, colormap=colormap, region=seen)
                file = files[picture, method]
                file.parent.mkdir(parents=True, exist_ok=True)
                drawn.save(file)
    console = Console(highlight=False)
    (name,) = extract.layers
    if as_json:
        told = {"layer": name, "reason": extract.reason, "files": [str(file) for file in files.values()]}
        print(json.dumps(told, indent=2))
        return
    console.print(f"layer {name}: {extract.reason}", markup=False, soft_wrap=True)
    for file in files.values():
        console.print(f"wrote {file}", markup=False, soft_wrap=True)


def _files(pictures: Sequence[Path], methods: Sequence[str], out: Path | None) -> dict[tuple[Path, str], Path]:
    """The file of each overlay; names that would be the same are numbered."""
    one = out is not None and out.suffix.lower() in FILES
    wanted = [(picture, method) for picture in dict.fromkeys(pictures) for method in methods]
    if one and len(wanted) > 1:
        raise ValueError(f"out must be a folder for {len(wanted)} overlays, got {str(out)!r}")
    if out is not None and not one and not out.is_dir() and out.suffix.lower() in Image.registered_extensions():
        raise ValueError(f"out must be a folder, or a file that ends with one of {', '.join(FILES)}, got {str(out)!r}")
    files: dict[tuple[Path, str], Path] = {}
    for picture, method in wanted:
        name = f"{picture.stem}.{re.sub(r'[^a-z0-9_]+', '-', method)}"
        file, number = (out if one and out is not None else (out or Path()) / f"{name}.png"), 1
        while file in files.values():
            number += 1
            file = file.with_name(f"{name}-{number}.png")
        files[picture, method] = file
    own = {os.path.realpath(picture) for picture in pictures}
    for file in files.values():
        if os.path.realpath(file) in own:
            raise ValueError(f"out must be another file than the picture, got {str(file)!r}")
    return files
