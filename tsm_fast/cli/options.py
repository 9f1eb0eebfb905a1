"""The options of the commands as types: what each takes, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ..pipeline.engines.run import ENGINES
from ..pipeline.files.shards import ALL, ERRORS
from ..pipeline.files.urls import folder
from ..pipeline.settings import AUTOCAST, FITS
from .config import read_config

INPUT, MAPS, WORK, RUNNING = "Input", "Maps", "How it is computed", "This command"


def parse_size(text: str) -> tuple[int, int]:
    """(h, w) of "224" or "224x320"."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.strip().isdecimal() for side in sides):
        raise typer.BadParameter(f"must be a number of pixels, or HEIGHTxWIDTH, got {text!r}")
    return int(sides[0]), int(sides[-1])


def parse_rank(text: str) -> int | tuple[int, ...]:
    numbers = [part.strip() for part in text.replace("x", ",").split(",")]
    if not all(part.isdecimal() for part in numbers):
        raise typer.BadParameter(f"must be a number, or one for each mode as in 32x7x7, got {text!r}")
    return int(numbers[0]) if len(numbers) == 1 else tuple(map(int, numbers))


def _share(text: str) -> float:
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise typer.BadParameter(f"must be a share such as 0.01 or 1%, got {text!r}")
    return value


KINDS = (ALL, *ERRORS)


def _one_of(names: Sequence[str]) -> Callable[[str | None], str | None]:
    def check(name: str | None) -> str | None:
        if name is not None and name not in names:
            raise typer.BadParameter(f"must be one of {', '.join(names)}, got {name!r}")
        return name

    return check


class RetryErrorsCommand(TyperCommand):
    """A command whose option --retry-errors may stand without a kind, which means all."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for place in [number for number, word in enumerate(args) if word == "--retry-errors"]:
            if args[place + 1 : place + 2] == [] or args[place + 1] not in KINDS:
                args[place] = f"--retry-errors={ALL}"
        return super().parse_args(ctx, args)


_input, _maps = partial(typer.Option, rich_help_panel=INPUT), partial(typer.Option, rich_help_panel=MAPS)
_work, _running = partial(typer.Option, rich_help_panel=WORK), partial(typer.Option, rich_help_panel=RUNNING)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RunFolder = Annotated[
    Path, typer.Argument(parser=folder, metavar="OUT", help="Folder or URL of a run of `tsm-fast extract`.")
]

Pictures = Annotated[
    str | None,
    typer.Argument(metavar="[SOURCE]", help="Where the pictures of the run are now, as for `tsm-fast extract`."),
]

# The input
Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A folder of pictures (with all below it), a list file, a CSV, TSV, JSON (lines or COCO) or Parquet "
        "manifest, webdataset tar files (all of them also by URL: s3://, gs://, hf://), hf:NAME, or "
        "package.module:factory or file.py:factory of a map-style dataset.",
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        parser=folder,
        metavar="FOLDER",
        help="Folder for the run, or its URL (s3://, gs://). The same command again goes on where it stopped.",
    ),
]
OutOrNone = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", metavar="FOLDER", help="Folder for the study. The same command again goes on where it stopped."
    ),
]
Model = Annotated[
    str,
    _input(
        "--model",
        "-m",
        help="lite0, timm:NAME, torchvision:NAME, transformers:NAME, published:NAME, package.module:factory, "
        "file.py:factory, or a .pt2 file.",
    ),
]
ModelOrNone = Annotated[
    str | None, _input("--model", "-m", help="As for `tsm-fast extract`. Default: lite0, or of a finished run none.")
]
Weights = Annotated[str | None, _input(help="File of weights: safetensors, or a state dict without code.")]
TrustModelCode = Annotated[bool, _input("--trust-model-code", help="Run code from model files (.pt2, pickles).")]
Size = Annotated[Any, _input(parser=parse_size, metavar="HxW", help="Input size, if not the model's own.")]
Fit = Annotated[
    str | None,
    _input(
        callback=_one_of(FITS),
        help="How pictures come to the input size, if not the model's own way: crop takes the largest central "
        "rectangle, pad and stretch the whole picture.",
    ),
]
MaxPixels = Annotated[int | None, _input(min=1, help="Larger pictures become error rows.")]
Root = Annotated[str | None, _input(metavar="FOLDER", help="Where relative paths of a list or manifest start.")]
Filter = Annotated[list[str] | None, _input("--filter", metavar="GLOB", help="Only keys that match, repeatable.")]
Keys = Annotated[str | None, _input(metavar="FILE", help="Only the keys that a file lists, one a line.")]
Sample = Annotated[int | None, _input(min=1, metavar="N", help="Only N images, chosen at random by --seed.")]
Seed = Annotated[int, _input(help="Of --sample.")]
Limit = Annotated[int | None, _input(min=1, help="Only the first N images of the sorted listing.")]

# The maps
Layers = Annotated[list[str] | None, _maps("--layer", "-l", help="Layer or glob, repeatable; see `tsm-fast layers`.")]
Reshape = Annotated[
    str,
    _maps(
        metavar="HOW",
        help="For layers that do not give [B, C, H, W]: auto finds the tokens of vision transformers and [B, H, W, C] "
        "in networks of timm, torchvision and transformers; tokens, nhwc declare them; or package.module:function.",
    ),
]
Methods = Annotated[
    list[str] | None,
    _maps(
        "--map",
        "--method",
        help="eigencam, tsm (default), multivec_eigencam, mtsm or mean_activation, also with options, as in "
        "mtsm:combine=absolute,rank=16x4x4, or what other packages add (`tsm-fast info`); repeatable, all in one pass.",
    ),
]
Rank = Annotated[
    Any,
    _maps(parser=parse_rank, metavar="R or RxRxR", help="Tucker rank of tsm and mtsm: of every map that names none."),
]
Center = Annotated[bool | None, _maps("--center/--no-center", help="Centre channels (the EigenCAM methods).")]
Combine = Annotated[str | None, _maps(help="signed or absolute (the multivector methods).")]
Sign = Annotated[str | None, _maps(help="Sign of singular vectors: u or v; of eigencam also absmax or sum.")]
Precision = Annotated[str, _maps(help="auto, float32 or float64.")]
Dtype = Annotated[str, _maps(help="Of the stored maps: float32, float16 or uint8.")]

# How they are computed
ShardSize = Annotated[
    int | None,
    _work(min=1, help="Images in a shard. Default: chosen for the images, workers and input size, and kept."),
]
BatchSize = Annotated[int, _work(min=1, help="Images in a forward pass.")]
Engine = Annotated[
    str,
    _work(
        callback=_one_of(ENGINES), help="local; rank (one of several processes of torchrun, SLURM or Kubernetes); ray."
    ),
]
Workers = Annotated[
    int | None,
    _work(min=0, help="Worker processes; 0 for none beside this one. Default: one on each GPU, else on each core."),
]
Device = Annotated[str, _work(help="auto, cpu, cuda, cuda:1, ...")]
Backend = Annotated[str | None, _work(help="Of the decompositions, see `tsm-fast info`.")]
DecodeThreads = Annotated[int, _work(min=1, help="Threads that decode images, in each worker.")]
ChannelsLast = Annotated[
    bool | None,
    _work(
        "--channels-last/--no-channels-last",
        help="Memory format of the forward pass; moves the last bits. Default: on the CPU.",
    ),
]
Autocast = Annotated[
    str | None,
    _work(callback=_one_of(AUTOCAST), help="bfloat16 or float16, for what PyTorch's autocast computes in them."),
]
Compile = Annotated[bool, _work("--compile", help="Forward pass by torch.compile; moves the last bits.")]
TorchThreads = Annotated[
    int,
    _work(min=1, help="Threads of the forward pass on the CPU, in each worker. Other than 1 may move the last bits."),
]
ShardTimeout = Annotated[float, _work(help="Seconds that a shard may take.")]
BatchTimeout = Annotated[
    float, _work(help="Seconds without a sign of life (an image read, a batch computed) after which a worker hangs.")
]

# This command
MaxErrors = Annotated[
    Any,
    _running(
        parser=_share,
        metavar="SHARE",
        help="Share of images that may fail, as 0.01 or 1%; the run stops as soon as there are more.",
    ),
]
Add = Annotated[
    bool,
    _running(
        "--add",
        help="Take the pictures of SOURCE that the run in OUT does not have into it, as new shards. Those that it has "
        "must be unchanged.",
    ),
]
Resume = Annotated[bool, _running(help="Go on with the run in OUT; --no-resume refuses one.")]
RetryErrors = Annotated[
    str | None,
    _running(
        "--retry-errors",
        metavar="[KIND]",
        callback=_one_of(KINDS),
        help="Compute error rows again, those of KIND or all, and no others of the shards that are done.",
    ),
]
Report = Annotated[bool, _running(help="Write report.html at the end, unless a signal stopped the run.")]
DryRun = Annotated[
    bool,
    _running("--dry-run", help="Only say what would be done, how long it would take and how large it would be."),
]
Config = Annotated[
    Path | None,
    _running(
        help="YAML file with these options by name; the command line wins.",
        is_eager=True,
        callback=read_config,
        exists=True,
        dir_okay=False,
    ),
]
