"""What a run computes (`Settings`, from which its record is made) and how (`Resources`, not in it)."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

import torch

from .. import reshape
from ..factory import find, is_factory
from ..methods import BUILT_IN, METHODS, OPTIONS
from ..steps import checks
from ..steps.backend import Precision
from ..variants import DEFAULT, variant

Dtype = Literal["float32", "float16", "uint8"]
DTYPES = ("float32", "float16", "uint8")
MAX_PIXELS = 89_478_485  # Pillow warns from here on
PILLOW_LIMIT = 2 * MAX_PIXELS  # and refuses from here on
BATCH_SIZE = 64
FITS = ("crop", "pad", "stretch")  # of `models.preprocessing`
AUTOCAST = ("bfloat16", "float16")


@dataclass(frozen=True)
class Settings:
    """Everything that decides what is computed; checked when made.

    Args:
        source: a folder, a list file, a CSV, TSV, JSON or Parquet manifest, tar files (also by URL), `hf:NAME`, or
            `package.module:factory` or `file.py:factory` of a map-style dataset (`sources.open.open_source`).
        model: "lite0", "timm:NAME", "torchvision:NAME", "transformers:NAME", "published:NAME",
            "package.module:factory", "file.py:factory", or the path of an exported program (.pt2) or a pickled module
            (`models.load`).
        weights: a file of weights for the model: safetensors, or a state dict that `torch.load` reads with
            `weights_only=True`.
        trust_model_code: allow what runs code from files: .pt2, pickled modules, remote code of transformers.
        layers: dotted names or globs; none for the automatic choice.
        reshape: how layers that give something else become [B, C, H, W]: "auto" finds tokens and [B, H, W, C] in
            networks of timm, torchvision and transformers, "tokens" and "nhwc" declare them for others, and
            "package.module:function" or "file.py:function" names a function from a layer's output.
        methods: of "eigencam", "tsm", "multivec_eigencam", "mtsm", "mean_activation", also with options of
            their own, as in "mtsm:combine=absolute,rank=16x4x4"; all come from one pass.
        rank, center, combine, sign: options of all methods that have them and do not name them themselves; None leaves
            each method's default.
        precision: as everywhere in this package.
        dtype: of the stored maps: "float32", or "float16" or "uint8" with a scale for each map.
        size: (h, w) of the network's input; None for that of the model's own preprocessing.
        fit: how pictures come to that size: "crop" (the largest central rectangle), "pad" or "stretch" (the whole
            picture); None for the model's own way, or "crop" for a size.
        max_pixels: larger pictures are error rows.
        root: the folder from which relative paths of a list or manifest go; None for its own.
        filter: only images whose key matches one of these globs; `*` matches "/" too.
        keys: only those that this file lists, one key a line, or separated by NUL bytes.
        sample: of these only so many, chosen by `seed` and their keys alone.
        limit: of these only the first, sorted by key.
        shard_size: images in a shard; None chooses when the run is planned, for its images, workers and input size
            (`planning.shard_size`), and takes that of the run when it goes on.
        batch_size: images in one forward pass (on the CPU at most 16 at once, which is faster); the last bits depend
            on it.
        channels_last: memory format of the forward pass, on which the last bits depend. None takes it on the CPU, where
            it is faster, for a network that gives the same features in it.
        autocast: "bfloat16" or "float16" for what `torch.autocast` computes in them; None for float32.
        compile: the forward pass by `torch.compile`, on which the last bits depend.
        computation: what is computed of every picture beside its maps, in columns of its own.

    Raises:
        TypeError, ValueError: an option has the wrong type or value.

    >>> Settings("photos", methods=("tsm", "mtsm")).model
    'lite0'
    """

    source: str
    model: str = "lite0"
    weights: str | None = None
    trust_model_code: bool = False
    layers: tuple[str, ...] = ()
    reshape: str = "auto"
    methods: tuple[str, ...] = (DEFAULT,)
    rank: int | tuple[int, ...] | None = None
    center: bool | None = None
    combine: str | None = None
    sign: str | None = None
    precision: Precision = "auto"
    dtype: Dtype = "float32"
    size: tuple[int, int] | None = None
    fit: str | None = None
    max_pixels: int = MAX_PIXELS
    root: str | None = None
    filter: tuple[str, ...] = ()
    keys: str | None = None
    sample: int | None = None
    seed: int = 0
    limit: int | None = None
    shard_size: int | None = None
    batch_size: int = BATCH_SIZE
    channels_last: bool | None = None
    autocast: str | None = None
    compile: bool = False
    computation: Any = None  # a `computation.Asked`

    def __post_init__(self) -> None:
        for name in ("source", "model"):
            _text(name, getattr(self, name))
        if self.reshape not in reshape.NAMES and not (isinstance(self.reshape, str) and is_factory(self.reshape)):
            named = ", ".join(reshape.NAMES)
            raise ValueError(
                f"reshape must be {named}, package.module:function or file.py:function, got {self.reshape!r}"
            )
        checks.flag("trust_model_code", self.trust_model_code)
        for name in ("layers", "methods", "filter"):
            object.__setattr__(self, name, _names(name, getattr(self, name)))
        if not self.methods:
            raise ValueError("methods must name at least one method, got none")
        object.__setattr__(self, "methods", _names("methods", (variant(text).name for text in self.methods)))
        if self.rank is not None and not isinstance(self.rank, int):
            object.__setattr__(self, "rank", tuple(checks.integer("rank", r) for r in self.rank))
        checks.precision(self.precision)
        checks.choice("dtype", self.dtype, DTYPES)
        object.__setattr__(self, "size", checks.size(self.size))
        _count("max_pixels", self.max_pixels, most=PILLOW_LIMIT)
        for name in ("root", "keys"):
            if getattr(self, name) is not None:
                _text(name, getattr(self, name))
        for name in ("limit", "sample"):
            if getattr(self, name) is not None:
                _count(name, getattr(self, name))
        checks.integer("seed", self.seed)
        if self.shard_size is not None:
            _count("shard_size", self.shard_size, most=10_000_000)
        _count("batch_size", self.batch_size, most=65_536)
        for name, known in (("fit", FITS), ("autocast", AUTOCAST)):
            checks.choice(name, getattr(self, name), (None, *known))
        if self.channels_last is not None:
            checks.flag("channels_last", self.channels_last)
        checks.flag("compile", self.compile)
        self._check_options()

    @property
    def loading(self) -> dict[str, Any]:
        """The keyword arguments of `models.load`."""
        return {name: getattr(self, name) for name in ("weights", "trust_model_code", "size", "fit")}

    @property
    def reshape_transform(self) -> Any:
        """That of the extractor."""
        return self.reshape if self.reshape in reshape.NAMES else find(self.reshape, "reshape")

    def options(self, method: str, *, all_of_them: bool = False) -> dict[str, Any]:
        """The keyword arguments of one of `methods`: those that were set and that it has; or all, with defaults."""
        named = variant(method)
        own = METHODS[named.method].options
        given = {name: getattr(self, name) for name in OPTIONS if name in own and getattr(self, name) is not None}
        return {**(own if all_of_them else {}), **given, **named.options}

    def _check_options(self) -> None:
        """Every option belongs to some method, and the methods take its value (tried on an empty batch)."""
        asked = [variant(method) for method in self.methods]
        known = {**BUILT_IN, **{one.method: METHODS[one.method] for one in asked}}
        for name in OPTIONS:
            having = [method for method, row in known.items() if name in row.options]
            if getattr(self, name) is not None and not any(v.method in having and name not in v.options for v in asked):
                raise ValueError(f"{name} is an option of {', '.join(having)}, got methods {', '.join(self.methods)}")
        same: dict[str, str] = {}
        for name, one in zip(self.methods, asked, strict=True):
            options = self.options(name, all_of_them=True)
            if isinstance(options.get("rank"), int):
                options["rank"] = (options["rank"],) * 3
            if (other := same.setdefault(repr((one.method, options)), name)) != name:
                raise ValueError(f"methods must be distinct, got {other} and {name}, which are the same maps")
            options.pop("rank", None)
            one.function(torch.zeros(0, 1, 1, 1), backend="reference", **options)


@dataclass(frozen=True)
class Resources:
    """How a run is computed; the result does not depend on it, except where stated.

    Args:
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1", ...
        backend: of the decompositions; None chooses.
        batch_size: None for that of the run. Another one may move the last bits of the maps.
        decode_threads: threads that read and decode images.
        torch_threads: of the forward pass on the CPU, in each worker. More than one may move the last bits of the
            maps, so a run is best spread over workers with one thread each; None leaves PyTorch's number as it is.
        shard_timeout: seconds a shard may take.
        batch_timeout: seconds after which a worker that gives no sign of life is taken to hang: no image was read, and
            no micro-batch came out of the network.
        max_errors: share of the images that may fail before a run is stopped.

    >>> Resources(decode_threads=4).device
    'auto'
    """

    device: str = "auto"
    backend: str | None = None
    batch_size: int | None = None
    decode_threads: int = 2
    torch_threads: int | None = 1
    shard_timeout: float = 3600.0
    batch_timeout: float = 60.0
    max_errors: float = 0.01

    def __post_init__(self) -> None:
        _text("device", self.device)
        for name in ("batch_size", "torch_threads"):
            if getattr(self, name) is not None:
                _count(name, getattr(self, name), most=65_536)
        _count("decode_threads", self.decode_threads, most=1024)
        for name in ("shard_timeout", "batch_timeout"):
            seconds = getattr(self, name)
            if not (isfinite(seconds) and seconds > 0):
                raise ValueError(f"{name} must be a positive number of seconds, got {seconds}")
        if not 0 <= self.max_errors <= 1:
            raise ValueError(f"max_errors must be a share in 0..1, got {self.max_errors}")


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {type(value).__name__}")
    if not value:
        raise ValueError(f"{name} must not be empty")


def _names(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        raise TypeError(f"{name} must be a tuple of names, got the string {value!r}")
    names = tuple(value)
    for entry in names:
        _text(name, entry)
    if len(set(names)) != len(names):
        raise ValueError(f"{name} must be distinct, got {', '.join(names)}")
    return names


def _count(name: str, value: Any, most: int | None = None) -> None:
    number = checks.integer(name, value)
    if number < 1 or (most is not None and number > most):
        raise ValueError(f"{name} must be {'at least 1' if most is None else f'in 1..{most}'}, got {number}")
