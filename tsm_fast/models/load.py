"""Models by name, with their preprocessing."""

from __future__ import annotations

import difflib
import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import nn

from ..factory import call, is_factory
from . import own, published
from . import weights as weight_files
from .lite0 import LITE0, lite0
from .preprocessing import Preprocess, Resize, shapes

PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt")


@dataclass(frozen=True)
class Model:
    """A model, in eval mode on the CPU, and how pictures become its input."""

    name: str
    module: nn.Module
    preprocess: Preprocess


def load(
    name: str,
    *,
    weights: str | None = None,
    trust_model_code: bool = False,
    size: tuple[int, int] | None = None,
    fit: str | None = None,
) -> Model:
    """A model by name.

    Args:
        name: "lite0"; "timm:NAME", "torchvision:NAME" or "transformers:NAME" (a name of the hub or a folder), with
            the preprocessing that belongs to the weights; "published:NAME", a supervised or self-supervised network of
            `published.PUBLISHED` with the weights of its authors; "package.module:factory" or "file.py:factory", a
            function without arguments that returns a module, or a module and a function from an RGB picture to
            [C, H, W]; or a file: an exported program (.pt2) or a pickled module.
        weights: a file with other weights (`weights.load_weights`); then none are downloaded.
        trust_model_code: allow what runs code from files: .pt2, pickled modules, remote code of transformers.
        size: (h, w) of the input, in place of the model's own.
        fit: how a picture comes to that size: "crop" takes the largest central rectangle, "pad" and "stretch" the whole
            picture (`preprocessing.Resize`). None is "crop" where `size` is given, else the model's own preprocessing.

    Raises:
        ValueError: there is no such model, it is not trusted, the weights do not belong to it, or its preprocessing
            takes inputs of several sizes, so that `fit` needs a `size`.
        ModuleNotFoundError: it needs a package that is not installed.
        FileNotFoundError: there is no such file.
        ConnectionError: published weights are neither here nor in reach.

    >>> from PIL import Image
    >>> model = load("torch.nn:Identity", size=(64, 64))
    >>> model.preprocess(Image.new("RGB", (100, 80))).shape
    torch.Size([3, 64, 64])
    """
    source, _, rest = name.partition(":")
    if name == "lite0":
        module, preprocess = lite0(), LITE0
    elif source == "published":
        module, preprocess, weights = published.load(rest, weights), published.INPUT, None
    elif source in _SOURCES and rest:
        module, preprocess, picture = _SOURCES[source](rest, weights is None, trust_model_code)
        if size is not None or fit is not None:
            preprocess = replace(picture, size=size or _size(preprocess, name))
    elif is_factory(name):
        module, preprocess = _from_factory(name, with_own=size is None and fit is None)
    elif name.lower().endswith((".pt2", *PICKLES)):
        module, preprocess = _from_file(name, trust_model_code), Resize((224, 224))
    else:
        raise _no_model(name)
    if isinstance(preprocess, Resize):
        preprocess = _fitted(preprocess, size, fit)
    if weights is not None:
        weight_files.load_weights(module, weights)
    return Model(name, module.eval(), preprocess)


def check_name(name: str) -> None:
    """ValueError where a name has none of the forms of a model's."""
    source, _, rest = name.partition(":")
    known = name == "lite0" or (source in (*_SOURCES, "published") and rest) or is_factory(name)
    if not known and not name.lower().endswith((".pt2", *PICKLES)):
        raise _no_model(name)


def _no_model(name: str) -> ValueError:
    hint = ""
    if difflib.get_close_matches(name, ["lite0"]):
        hint = "; did you mean 'lite0'?"
    elif name.replace("_", "").isalnum():
        hint = f"; a network of timm is timm:{name}"
    return ValueError(
        f"model must be lite0, timm:NAME, torchvision:NAME, transformers:NAME, published:NAME, "
        f"package.module:factory, file.py:factory or a .pt2 file, got {name!r}{hint}"
    )


def _size(preprocess: Preprocess, name: str) -> tuple[int, int]:
    """(h, w) that a model's own preprocessing gives to any picture."""
    (_, h, w), wide = shapes(preprocess)
    if (h, w) != wide[1:]:
        raise ValueError(f"the preprocessing of {name} gives inputs of several sizes: fit needs size=(h, w)")
    return h, w


def _timm(name: str, pretrained: bool, _trust: bool) -> tuple[nn.Module, Preprocess, Resize]:
    timm = _package("timm", f"timm:{name}")
    if not name.startswith(("hf_hub:", "hf-hub:", "local-dir:")) and not timm.is_model(name.split(".")[0]):
        raise _unknown("timm", name.split(".")[0], timm.list_models())
    module = timm.create_model(name, pretrained=pretrained)
    return module, *own.timm(module)


def _torchvision(name: str, pretrained: bool, _trust: bool) -> tuple[nn.Module, Preprocess, Resize]:
    torchvision = _package("torchvision", f"torchvision:{name}")
    try:
        weights = torchvision.models.get_model_weights(name).DEFAULT
    except ValueError:
        raise _unknown("torchvision", name, torchvision.models.list_models()) from None
    module = torchvision.models.get_model(name, weights=weights if pretrained else None)
    return module, *own.torchvision(weights.transforms(), str(weights))


def _transformers(name: str, pretrained: bool, trust: bool) -> tuple[nn.Module, Preprocess, Resize]:
    transformers = _package("transformers", f"transformers:{name}")
    options: dict[str, Any] = {"trust_remote_code": trust}
    try:
        if pretrained:
            module = transformers.AutoModel.from_pretrained(name, **options)
        else:
            config = transformers.AutoConfig.from_pretrained(name, **options)
            module = transformers.AutoModel.from_config(config, **options)
        processor = transformers.AutoImageProcessor.from_pretrained(name, **options)
    except OSError as error:
        raise ValueError(f"model transformers:{name} cannot be loaded: {str(error).strip().splitlines()[0]}") from None
    return module, *own.transformers(processor)


_SOURCES = {"timm": _timm, "torchvision": _torchvision, "transformers": _transformers}


def live(
    module: nn.Module,
    transform: Callable[[Image.Image], Any] | None = None,
    *,
    size: tuple[int, int] | None = None,
    fit: str | None = None,
) -> Model:
    """A module of this program as a model, with a transform or the preprocessing that `own.find` finds.

    Raises:
        TypeError: the transform is no function.
        ValueError: `size` or `fit` are given beside it.
    """
    if transform is None:
        found = own.find(module)
        preprocess = found.preprocess
        if size is not None or fit is not None:
            preprocess = _fitted(found.picture, size or _size(preprocess, type(module).__qualname__), fit)
    elif size is not None or fit is not None:
        raise ValueError("preprocess makes the whole input, so that size and fit have nothing to say")
    else:
        preprocess = own.given(transform, "preprocess")
    return Model(type(module).__qualname__, module.eval(), preprocess)


def _fitted(preprocess: Resize, size: tuple[int, int] | None, fit: str | None) -> Resize:
    return replace(preprocess, size=size or preprocess.size, fit=fit or preprocess.fit)


def _from_factory(name: str, *, with_own: bool) -> tuple[nn.Module, Preprocess]:
    made = call(name, "model")
    module, transform = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, nn.Module):
        raise ValueError(f"model {name!r} must return a torch.nn.Module, got {type(module).__name__}")
    if transform is None or not with_own:
        return module, Resize((224, 224))
    if not callable(transform):
        raise ValueError(f"model {name!r} must return a function beside the module, got {type(transform).__name__}")
    return module, own.given(transform, "factory")


def _from_file(name: str, trust: bool) -> nn.Module:
    if not os.path.isfile(name):
        raise FileNotFoundError(f"model {name!r} does not exist")
    if not trust:
        raise ValueError(
            f"model {name!r} runs code when it is loaded: pass trust_model_code=True if you know where it comes "
            "from, or name the architecture as model and give its state dict as weights"
        )
    if name.lower().endswith(".pt2"):
        # The modules of a flat program never run, so hooks on them would not fire.
        return torch.export.unflatten(torch.export.load(name))
    found = torch.load(name, map_location="cpu", weights_only=False)
    if isinstance(found, torch.jit.ScriptModule):
        raise ValueError(f"model {name!r} is scripted, so its layers cannot be read: export it as .pt2")
    if not isinstance(found, nn.Module):
        raise ValueError(
            f"model {name!r} must hold a torch.nn.Module, got {type(found).__name__}; a state dict goes in as weights, "
            "beside the name of its architecture as model"
        )
    return found


def _unknown(package: str, name: str, names: Sequence[str]) -> ValueError:
    near = difflib.get_close_matches(name, names, n=5)
    hint = f"; close names: {', '.join(near)}" if near else ""
    return ValueError(f"model {package}:{name} does not exist{hint}")


def _package(package: str, name: str) -> Any:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        extra = "timm" if package == "torchvision" else package
        raise ModuleNotFoundError(
            f"model {name!r} needs the package {package}: pip install 'tsm_fast[{extra}]'", name=package
        ) from None
