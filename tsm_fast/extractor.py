"""`SaliencyExtractor`: reads layers of any model and turns their feature maps into saliency maps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from inspect import Parameter, signature
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ._turns import turn
from .layers import Layers, choose_layer, describe, find_layers, first_tensor, is_glob
from .methods import METHODS
from .steps import checks, choice
from .steps.arrays import FLOAT_DTYPES

Size = Literal["input"] | tuple[int, int] | None


class SaliencyExtractor:
    """Saliency maps of a model's layers, without labels, gradients or the model's output.

    Args:
        model: any `nn.Module`. `nn.DataParallel`, `DistributedDataParallel` and `torch.compile` wrappers are taken
            off: what they wrap runs, eagerly, on the device where it is.
        layers: a dotted name, a glob (`"layer*"`, `"blocks.*.norm"`; `*` stays within one part of the name), a
            module, or a list of these. None chooses a layer at the first call, from one whole forward pass: the last
            module before global pooling whose input and output are `[B, C, H, W]`, C >= 32 and H, W > 1 at the
            output (`layers.choose_layer`); `layers` and `reason` tell which and why.
        method: "eigencam", "tsm", "multivec_eigencam" or "mtsm".
        size: None for the layer's own resolution, "input" for that of the input images, or (h, w).
        rank: None (full) or the Tucker rank of "tsm" and "mtsm".
        reshape_transform: takes a layer's output and returns `[B, C, H, W]`, for tokens, `[B, H, W, C]` or dicts.
            A tuple or list comes in as its first tensor.
        **options: the other options of the method: `center`, `combine`, `sign`, `relu`, `nan`, `normalize`,
            `precision`, `backend`.

    Calling it with `inputs` runs the model as far as the last wanted layer: a tensor is the only argument, a tuple or
    list are the positional arguments, a mapping the keyword arguments (a list of images as one argument is
    `([a, b],)`). It returns float32 maps on the features' device: `[B, H, W]` for one layer given by name or module
    or chosen, and a dict from layer name to `[B, H, W]` for a list or a glob, also of one.

    A layer that runs several times in one forward pass is read at its first run. The model runs in eval mode and
    without gradients; the mode of every submodule, the hooks and the grad mode are as before after each call, also
    after an exception. Hooks are there only during a call, so `with` is a matter of scope: it lets go of the model.

    Calls from several threads on models that share modules (a model and a part of it, say) wait for each other; others
    run at the same time. Running such a model elsewhere meanwhile is not safe, since it is in eval mode and hooked.

    Raises:
        ValueError: a layer does not exist (close names are offered), or gives something else than `[B, C, H, W]`.
        TypeError: wrong types, integer or complex feature maps, or an option that the method does not have.
        RuntimeError: a layer that did not run, or a call after `close()`.

    >>> import torch, tsm_fast
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1))
    >>> with tsm_fast.SaliencyExtractor(model, "1", method="tsm", size="input") as extract:
    ...     maps = extract(torch.rand(2, 3, 16, 16))
    >>> maps.shape, maps.dtype
    (torch.Size([2, 16, 16]), torch.float32)
    """

    _layout, _orders = "[B, C, H, W]", (4,)  # what a layer is to give

    def __init__(
        self,
        model: nn.Module,
        layers: Layers | None = None,
        method: str = "tsm",
        *,
        size: Size = None,
        rank: int | Sequence[int] | None = None,
        reshape_transform: Callable[[Any], Tensor] | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        if reshape_transform is not None and not callable(reshape_transform):
            raise TypeError(f"reshape_transform must be callable, got {type(reshape_transform).__name__}")
        if reshape_transform is not None and layers is None:
            raise ValueError("reshape_transform needs layers=: only [B, C, H, W] layers are chosen automatically")
        self._model: nn.Module | None = _unwrapped(model)
        self._options = _checked_options(method, {"rank": rank} if rank is not None else {}, options)
        self.method = method
        self.size: Size = size if size == "input" else checks.size(size)
        self._reshape_transform = reshape_transform
        self._many = not (
            layers is None or isinstance(layers, nn.Module) or (isinstance(layers, str) and not is_glob(layers))
        )
        self._modules = {} if layers is None else find_layers(self._model, layers)
        self._names = tuple(self._modules)
        self.reason = "" if layers is None else "named by the caller"

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers read; empty until the first call has chosen one. They stay after `close()`."""
        return self._names

    def __call__(self, inputs: Any) -> Any:
        """Maps `[B, H, W]` of one layer, or a dict of them by layer name; see the class."""
        size = _input_size(*_arguments(inputs)) if self.size == "input" else self.size
        features = self.features(inputs)
        maps = {name: self._maps(features.pop(name), size) for name in self._names}
        return maps if self._many else next(iter(maps.values()))

    def features(self, inputs: Any) -> dict[str, Tensor]:
        """The feature maps `[B, C, H, W]` of every layer by its name: what the maps are made of.

        `inputs` and errors are as in a call; the forward pass stops after the last wanted layer.
        """
        model = self._model
        if model is None:
            raise RuntimeError("this SaliencyExtractor is closed: make a new one")
        args, kwargs = _arguments(inputs)
        with _alone(model), torch.no_grad():
            if not self._modules:
                name, self.reason = choose_layer(model, lambda: model(*args, **kwargs))
                self._modules = find_layers(model, name)
                self._names = (name,)
            found = self._features(model, args, kwargs)
        for name in self._names:
            self._check(name, found[name])
        return {name: found[name].detach() for name in self._names}

    def close(self) -> None:
        """Let go of the model; a later call raises RuntimeError."""
        self._model, self._modules = None, {}

    def __enter__(self) -> SaliencyExtractor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        layers = ", ".join(map(repr, self._names)) or "chosen at the first call"
        return f"SaliencyExtractor({type(self._model).__name__}, layers=({layers}), method={self.method!r})"

    def _features(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """What the wanted layers give, by name; the forward pass stops when the last of them has run."""
        found: dict[str, Any] = {}
        thread = threading.current_thread()

        def reader(name: str) -> Callable[[nn.Module, Any, Any], None]:
            def read(_module: nn.Module, _args: Any, output: Any) -> None:
                if threading.current_thread() is not thread or name in found:
                    return
                value = self._read(output)
                last = len(found) + 1 == len(self._modules)
                # Later layers may write into this output (ReLU in place), unless nothing runs after it.
                found[name] = value.clone() if isinstance(value, Tensor) and not last else value
                if last:
                    raise _Stop(found)

            return read

        with ExitStack() as hooks:
            for name, module in self._modules.items():
                hooks.callback(module.register_forward_hook(reader(name)).remove)
            try:
                model(*args, **kwargs)
            except _Stop as raised:
                if raised.found is not found:  # that of an extractor around this one, whose layer ran inside of it
                    raise
        for name, module in self._modules.items():
            if name not in found:
                raise RuntimeError(_did_not_run(name, module, model))
        return found

    def _read(self, output: Any) -> Any:
        """The feature maps in what a layer gives."""
        value = first_tensor(output)
        return value if self._reshape_transform is None else self._reshape_transform(value)

    def _check(self, name: str, features: Any) -> None:
        """ValueError for what is no [B, C, H, W] tensor, TypeError for integer maps, both naming the layer."""
        transformed = self._reshape_transform is not None
        source = f"reshape_transform of layer {name!r}" if transformed else f"layer {name!r}"
        if not isinstance(features, Tensor) or features.ndim not in self._orders:
            hint = "" if transformed else "; declare another layout with reshape_transform="
            raise ValueError(f"{source} must give feature maps {self._layout}, got {describe(features)}{hint}")
        if features.dtype not in FLOAT_DTYPES:
            raise TypeError(f"{source} must give floating-point feature maps, got {describe(features)}")

    def _maps(self, features: Tensor, size: tuple[int, int] | None) -> Tensor:
        # The decomposition keeps its own precision contract: autocast would round its products.
        device = features.device.type
        with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
            return METHODS[self.method].function(features, size=size, **self._options)


class _Stop(Exception):
    """Raised by the last wanted layer's hook with what was found, caught by the `_features` that collects that.

    What was found is no argument: interpreters of graphs write their own message into those.
    """

    def __init__(self, found: dict[str, Any]):
        super().__init__()
        self.found = found


# What a turn is taken on beside modules: whether compiled code runs eagerly is one setting for the whole process.
_STANCE = object()


@contextmanager
def _alone(model: nn.Module) -> Iterator[None]:
    """The model in eval mode and eager, none of its modules in another thread's call: modes and hooks are theirs."""
    modules = list(model.modules())
    compiled = any(map(_is_compiled, modules))
    with turn([*modules, *[_STANCE] * compiled]), _evaluating(modules), _eager() if compiled else nullcontext():
        yield


def _unwrapped(model: nn.Module) -> nn.Module:
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def _checked_options(method: str, rank: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """The method's own options, tried on an empty batch so that a wrong value fails before any forward pass."""
    checks.choice("method", method, METHODS)
    function = METHODS[method].function
    allowed = [name for name, p in signature(function).parameters.items() if p.default is not Parameter.empty]
    for name in {**rank, **options}:
        if name not in allowed or name == "size":
            names = ", ".join(option for option in allowed if option not in ("size", "rank"))
            raise TypeError(f"method {method!r} has no option {name!r}; it has {names}")
    if options.get("backend") is not None:
        checks.choice("backend", options["backend"], choice.backends())
        choice.load(options["backend"])
    function(torch.zeros(0, 1, 1, 1, device="cpu"), **{**options, "backend": "reference"})
    return {**rank, **options}


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    if isinstance(inputs, tuple | list):
        return tuple(inputs), {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    raise TypeError(f"inputs must be a tensor, a tuple or list of arguments, or a mapping, got {type(inputs).__name__}")


def _input_size(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, int]:
    """(h, w) of the first [B, C, H, W] tensor among the inputs, or of its [C, H, W] images where all agree."""
    tensors = list(_tensors((args, kwargs)))
    batch = next((tensor for tensor in tensors if tensor.ndim == 4), None)
    if batch is not None:
        return batch.shape[-2], batch.shape[-1]
    sizes = {(tensor.shape[-2], tensor.shape[-1]) for tensor in tensors if tensor.ndim == 3}
    if len(sizes) != 1:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors) or "no tensor"
        raise ValueError(f"size='input' needs [B, C, H, W] or equal [C, H, W] images among the inputs, got {shapes}")
    return sizes.pop()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))


@contextmanager
def _evaluating(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Eval mode, by the flags alone: `train()` and `eval()` may be overridden to do more (merge adapters, say)."""
    modes = [(module, module.training) for module in modules]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training


def _is_compiled(module: nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


def _eager() -> AbstractContextManager[Any]:
    """Compiled submodules run eagerly: hooks inside compiled graphs do not fire."""
    stance = getattr(torch.compiler, "set_stance", None)
    return nullcontext() if stance is None else stance("force_eager")


def _did_not_run(name: str, module: nn.Module, model: nn.Module) -> str:
    if isinstance(module, nn.ModuleList | nn.ModuleDict):
        return f"layer {name!r} is a {type(module).__name__}, which never runs itself: name one of its modules"
    kind = type(model).__name__
    return f"layer {name!r} did not run in the forward pass of {kind}: it is unused for these inputs, or scripted"
