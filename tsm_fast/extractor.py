"""`SaliencyExtractor`: reads layers of any model and turns their feature maps into saliency maps."""

import difflib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from inspect import Parameter, signature
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ._graphs import Graphs
from ._lazy import needs
from ._turns import turn
from .layers import Layers, around, choose_layer, describe, find_layers, first_tensor, is_glob, named_layers
from .methods import BUILT_IN, METHODS
from .reshape import NAMES, ChannelsLast, Convolution, Tokens, found_in, layout, tokens
from .steps import checks, choice
from .steps.arrays import FLOAT_DTYPES
from .variants import DEFAULT, Variant, variant

if TYPE_CHECKING:
    from .models.own import Own

Size = Literal["input"] | int | Sequence[int] | None
Methods = str | Sequence[str] | Mapping[str, str]
Reshape = Literal["auto", "tokens", "nhwc"] | Callable[[Any], Tensor] | None

# What other packages call the arguments of the extractor.
_ELSEWHERE = {
    **dict.fromkeys(("target_layers", "target_layer", "layer", "layer_name", "conv_layer"), "layers"),
    **dict.fromkeys(("map", "maps", "methods"), "method"),
    **dict.fromkeys(("reshape", "reshape_fn"), "reshape_transform"),
    **dict.fromkeys(("preprocess", "preprocessing", "processor", "transforms"), "transform"),
    **dict.fromkeys(("ranks", "n_components"), "rank"),
    **dict.fromkeys(("input_shape", "output_size"), "size"),
}


class SaliencyExtractor:
    """Saliency maps of a model's layers, without labels, gradients or the model's output.

    Args:
        model: any `nn.Module`. `nn.DataParallel`, `DistributedDataParallel` and `torch.compile` wrappers are taken
            off: what they wrap runs, eagerly, on the device where it is.
        layers: a dotted name, a glob (`"layer*"`, `"blocks.*.norm"`; `*` stays within one part of the name), a
            module, or a list of these. None chooses a layer at the first call, from one whole forward pass: the last
            module before global pooling that gives maps of C >= 32 channels (`layers.choose_layer`); `layers` and
            `reason` tell which and why.
        method: "eigencam", "tsm", "multivec_eigencam", "mtsm" or "mean_activation", also with options of its own, as in
            "mtsm:combine=absolute,rank=16x4x4"; a list of these, or a dict of them by names of your own, for several
            maps from one forward pass.
        size: None for the layer's own resolution, "input" for that of the inputs, one number per position mode, (h, w)
            for pictures, or a number for all of them.
        rank: None (full) or the Tucker rank of "tsm" and "mtsm".
        reshape_transform: for layers that give something else than `[B, C, H, W]` or `[B, C, T, H, W]`. None or "auto"
            finds the tokens of vision transformers and `[B, H, W, C]` in networks of timm, torchvision and
            transformers; "tokens" and "nhwc" declare them for others; or a function that takes a layer's output, a
            tuple or list as its first tensor, and returns `[B, C, *positions]` with one to three position modes
            (`tsm_fast.reshape` has some).
        transform: from an RGB picture to `[C, H, W]`, or an image processor of transformers, for inputs that are
            pictures. None takes that of the model where it is known, else ImageNet's usual one; `preprocessing` tells.
        cuda_graph: replay the maps of features on a GPU as one CUDA graph, for small batches, where launching takes
            longer than computing. The first call with features of one shape, strides, dtype and device captures, which
            takes a moment and memory that stays; up to 16 such kinds do, others run as without. Maps and errors are the
            same. The model itself is not part of the graph. No GPU has run it yet.
        **options: the other options of the methods: `center`, `combine`, `sign`, `relu`, `nan`, `normalize`,
            `precision`, `backend`; each goes to those methods that have it.

    Calling it with `inputs` runs the model as far as the last wanted layer. A PIL image or a file name, or a list of
    these, goes through `transform`; a tensor is the only argument, another tuple or list are the positional arguments,
    a mapping the keyword arguments (a list of images as one argument is `([a, b],)`). It returns float32 maps on the
    features' device, `[B, T, H, W]` for features `[B, C, T, H, W]`, and so on:

    | | one `method` | a list or dict of them |
    | --- | --- | --- |
    | one layer, by name or module or chosen | `[B, H, W]` | `{method: [B, H, W]}` |
    | a list or glob, also of one | `{layer: [B, H, W]}` | `{layer: {method: [B, H, W]}}` |

    A layer that runs several times in one forward pass is read at its first run. The model runs in eval mode and
    without gradients; the mode of every submodule, the hooks and the grad mode are as before after each call, also
    after an exception. Hooks are there only during a call, so `with` is a matter of scope: it lets go of the model.

    Calls from several threads on models that share modules (a model and a part of it, say) wait for each other; others
    run at the same time. Running such a model elsewhere meanwhile is not safe, since it is in eval mode and hooked.

    Raises:
        ValueError: a layer does not exist (close names are offered), or gives something else than feature maps.
        TypeError: wrong types, integer or complex feature maps, or an option that no method has.
        FileNotFoundError: there is no such picture.
        RuntimeError: a layer that did not run, a call after `close()`, or, with `cuda_graph`, features that are on no
            GPU, or whose maps have to wait for it (those above n = 256; of `backend="triton"` above 64) or go to the
            backend `reference`.

    >>> import torch, tsm_fast
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1))
    >>> with tsm_fast.SaliencyExtractor(model, "1", method="tsm", size="input") as extract:
    ...     maps = extract(torch.rand(2, 3, 16, 16))
    >>> maps.shape, maps.dtype
    (torch.Size([2, 16, 16]), torch.float32)
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Layers | None = None,
        method: Methods = DEFAULT,
        *,
        size: Size = None,
        rank: int | Sequence[int] | None = None,
        reshape_transform: Reshape = None,
        transform: Callable[[Any], Any] | None = None,
        cuda_graph: bool = False,
        **options: Any,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        self._reshape = _checked_reshape(reshape_transform)
        if callable(self._reshape) and layers is None:
            raise ValueError("reshape_transform needs layers= where it is a function: it does not tell which to choose")
        if transform is not None and not callable(transform):
            raise TypeError(f"transform must be a function from a picture to [C, H, W], got {type(transform).__name__}")
        checks.flag("cuda_graph", cuda_graph)
        self._model: nn.Module | None = _unwrapped(model)
        self._graphs = Graphs() if cuda_graph else None
        self._maps = _bound(_variants(method), {**({} if rank is None else {"rank": rank}), **options})
        self.method: str | tuple[str, ...] = method if isinstance(method, str) else tuple(self._maps)
        self.size: Literal["input"] | int | tuple[int, ...] | None = _checked_size(size)
        self._transform, self._own = transform, None
        self._layouts: dict[str, Callable[[Any], Any] | None] = {}
        self._many = not (
            layers is None or isinstance(layers, nn.Module) or (isinstance(layers, str) and not is_glob(layers))
        )
        self._modules = {} if layers is None else find_layers(self._model, layers)
        self._names: tuple[str, ...] = tuple(self._modules)
        self.reason = "not chosen yet: the first call does" if layers is None else "named by the caller"

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers read; empty until the first call has chosen one. They stay after `close()`."""
        return self._names

    @property
    def preprocessing(self) -> str:
        """How pictures become inputs, and why so."""
        return self._preprocessing().reason

    def region(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The part of a picture of this size that the model sees: (left, top, right, bottom) in pixels.

        It may reach over the picture, where that is padded: `tsm_fast.overlay(picture, map, region=extract.region)`.
        ValueError where the transform does not tell.
        """
        with needs("pictures", "the region of a picture"):
            from .models.region import region

        found = region(self._preprocessing().preprocess.record(), width, height)
        if found is None:
            raise ValueError(
                "region: this transform does not tell which part of a picture it takes: give the overlay "
                "region=(left, top, right, bottom) in pixels, or None for all of the picture"
            )
        return found

    def __call__(self, inputs: Any) -> Any:
        """Maps `[B, H, W]` of one layer and method, or dicts of them; see the class."""
        inputs = self._inputs(inputs)
        sizes = _input_sizes(*_arguments(inputs)) if self.size == "input" else {}
        features = self.features(inputs)
        maps = {name: self._maps_of(features.pop(name), sizes) for name in self._names}
        return maps if self._many else next(iter(maps.values()))

    def features(self, inputs: Any) -> dict[str, Tensor]:
        """The feature maps `[B, C, *positions]` of every layer by its name: what the maps are made of.

        `inputs` and errors are as in a call; the forward pass stops after the last wanted layer.
        """
        return self._pass(inputs, whole=False)[0]

    def features_and_output(self, inputs: Any) -> tuple[dict[str, Tensor], Any]:
        """The feature maps as `features` gives them, and what the model gives in the end, of one whole forward pass."""
        return self._pass(inputs, whole=True)

    def _pass(self, inputs: Any, *, whole: bool) -> tuple[dict[str, Tensor], Any]:
        model = self._model
        if model is None:
            raise RuntimeError("this SaliencyExtractor is closed: make a new one")
        args, kwargs = _arguments(self._inputs(inputs))
        try:
            return self._passed(model, args, kwargs, whole)
        except (RuntimeError, ValueError) as error:
            shapes = [tuple(tensor.shape) for tensor in _tensors((args, kwargs))]
            if len(shapes) == 1 and len(shapes[0]) == 3 and shapes[0][0] in (1, 3) and min(shapes[0][1:]) >= 8:
                raise ValueError(
                    f"inputs must be a batch, [B, C, H, W] for pictures, got shape {shapes[0]}: a single picture goes "
                    f"in as inputs[None] ({error})"
                ) from error
            raise

    def _passed(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], whole: bool
    ) -> tuple[dict[str, Tensor], Any]:
        with alone(model), torch.no_grad():
            if not self._modules:
                declared = self._reshape != "auto"
                name, self.reason = choose_layer(model, lambda: model(*args, **kwargs), declared=declared)
                self._modules = find_layers(model, name)
                self._names = (name,)
            found, output = self._features(model, args, kwargs, whole)
        for name in self._names:
            self._check(name, found[name])
        return {name: found[name].detach() for name in self._names}, output

    def close(self) -> None:
        """Let go of the model; a later call raises RuntimeError."""
        self._model, self._modules, self._graphs = None, {}, None

    def __enter__(self) -> "SaliencyExtractor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        layers = repr(tuple(self._names)) if self._names else "(chosen at the first call)"
        return f"SaliencyExtractor({type(self._model).__name__}, layers={layers}, method={self.method!r})"

    def _features(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], whole: bool
    ) -> tuple[dict[str, Any], Any]:
        """What the wanted layers give, by name; unless it is to be whole, the pass stops when the last of them has run.

        And the model's own output, None of a pass that was stopped.
        """
        found: dict[str, Any] = {}
        convolutions: list[Convolution] = []
        thread = threading.current_thread()

        def look(_module: nn.Module, args: Any, output: Any) -> None:
            given = first_tensor(args)
            if threading.current_thread() is thread and isinstance(given, Tensor) and isinstance(output, Tensor):
                convolutions.append(Convolution(tuple(given.shape), tuple(output.shape)))

        def reader(name: str) -> Callable[[nn.Module, Any, Any], None]:
            def read(_module: nn.Module, _args: Any, output: Any) -> None:
                if threading.current_thread() is not thread or name in found:
                    return
                value = self._read(name, output, convolutions)
                last = not whole and len(found) + 1 == len(self._modules)
                # Later layers may write into this output (ReLU in place), unless nothing runs after it.
                found[name] = value.clone() if isinstance(value, Tensor) and not last else value
                if last:
                    raise _Stop(found)

            return read

        table = named_layers(model)
        self._known = {name for name in self._names if found_in(around(table, name))}
        output = None
        with ExitStack() as hooks:
            if self._reshape == "tokens" or (self._reshape == "auto" and self._known):
                for module in filter(_is_convolution, table.values()):
                    hooks.callback(module.register_forward_hook(look).remove)
            for name, module in self._modules.items():
                hooks.callback(module.register_forward_hook(reader(name)).remove)
            try:
                output = model(*args, **kwargs)
            except _Stop as raised:
                if raised.found is not found:  # that of an extractor around this one, whose layer ran inside of it
                    raise
        for name, module in self._modules.items():
            if name not in found:
                raise RuntimeError(_did_not_run(name, module, model))
        return found, output

    def _read(self, name: str, output: Any, convolutions: Sequence[Convolution]) -> Any:
        """The feature maps in what a layer gives."""
        self._layouts[name] = self._way(name, plain(output), convolutions)
        return self.reshaped(name, output)

    def reshaped(self, name: str, output: Any) -> Any:
        """What a layer gives as `[B, C, H, W]`, in the way of the last call."""
        value = first_tensor(output) if callable(self._reshape) else plain(output)
        found = self._layouts[name]
        return value if found is None else found(value)

    def _way(self, name: str, value: Any, convolutions: Sequence[Convolution]) -> Callable[[Any], Any] | None:
        if callable(self._reshape):
            return self._reshape
        if self._reshape == "nhwc":
            return ChannelsLast()
        if not isinstance(value, Tensor):
            return None
        if self._reshape == "tokens":
            grids = [run.made for run in convolutions]
            return (tokens(value.shape[1], grids) if value.ndim == 3 else None) or Tokens()
        return layout(tuple(value.shape), convolutions) if name in self._known else None

    def _check(self, name: str, features: Any) -> None:
        """ValueError for what is no [B, C, *positions] tensor, TypeError for integer maps, both naming the layer.

        [B, C, N] has to be declared: what looks like it is most often [B, N, C].
        """
        transformed = callable(self._reshape)
        source = f"reshape_transform of layer {name!r}" if transformed else f"layer {name!r}"
        if not isinstance(features, Tensor) or not (3 if transformed else 4) <= features.ndim <= 5:
            hint = "" if transformed else "; declare another layout with reshape_transform="
            layouts = "[B, C, *positions]" if transformed else "[B, C, H, W] or [B, C, T, H, W]"
            raise ValueError(f"{source} must give feature maps {layouts}, got {describe(features)}{hint}")
        if features.dtype not in FLOAT_DTYPES:
            raise TypeError(f"{source} must give floating-point feature maps, got {describe(features)}")

    def _maps_of(self, features: Tensor, sizes: Mapping[int, tuple[int, ...]]) -> Any:
        modes = features.ndim - 2
        size = sizes.get(modes) if self.size == "input" else self.size
        if self.size == "input" and size is None:
            raise ValueError(f"size='input' needs inputs with {modes} position modes, as {describe(features)} has")
        if isinstance(size, int):
            size = (size,) * modes
        # The decomposition keeps its own precision contract: autocast would round its products.
        device = features.device.type
        with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
            graphs = self._graphs
            maps = self._all_maps(features, size) if graphs is None else graphs(self._all_maps, features, size)
        return maps if isinstance(self.method, tuple) else next(iter(maps.values()))

    def _all_maps(self, features: Tensor, size: Any) -> dict[str, Tensor]:
        return {name: function(features, size=size) for name, function in self._maps.items()}

    def _preprocessing(self) -> "Own":
        if self._own is None:
            with needs("pictures", "a picture as input"):
                from .models import own

            if self._transform is not None:
                preprocess = own.given(self._transform)
                self._own = own.Own(preprocess, own.USUAL, "given as transform=")
            elif self._model is None:
                raise RuntimeError("this SaliencyExtractor is closed: make a new one")
            else:
                self._own = own.find(self._model)
        return self._own

    def _inputs(self, inputs: Any) -> Any:
        """A batch of the pictures, on the model's device and in its dtype, where inputs are pictures."""
        pictures = [inputs] if _is_picture(inputs) else inputs
        if not isinstance(pictures, list | tuple) or not pictures or not all(map(_is_picture, pictures)):
            return inputs
        with needs("pictures", "a picture as input"):
            from .pictures.show import as_picture

        if self._model is None:
            raise RuntimeError("this SaliencyExtractor is closed: make a new one")
        preprocess = self._preprocessing().preprocess
        made = [preprocess(as_picture("inputs", picture)) for picture in pictures]
        if len({tensor.shape for tensor in made}) > 1:
            shapes = ", ".join(str(tuple(shape)) for shape in dict.fromkeys(tensor.shape for tensor in made))
            raise ValueError(
                f"transform must give all pictures of a call one shape, got {shapes}: call with each alone"
            )
        like = next((value for value in self._model.parameters() if value.is_floating_point()), made[0])
        return torch.stack(made).to(like)


def plain(output: Any) -> Any:
    """What a layer gives: of a tuple or list the first tensor, of an output of transformers its last hidden state."""
    return first_tensor(getattr(output, "last_hidden_state", output))


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
def alone(model: nn.Module) -> Iterator[None]:
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


def _is_convolution(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d)


def _is_picture(value: Any) -> bool:
    """Whether it is a PIL image or the name of a file; PIL is not imported for it."""
    return isinstance(value, str | Path) or any(
        base.__module__ == "PIL.Image" and base.__name__ == "Image" for base in type(value).__mro__
    )


def _checked_reshape(value: Any) -> Any:
    if value is None:
        return "auto"
    if isinstance(value, str):
        checks.choice("reshape_transform", value, NAMES)
    elif not callable(value):
        named = ", ".join(map(repr, NAMES))
        raise TypeError(f"reshape_transform must be one of {named} or a function, got {type(value).__name__}")
    return value


def _checked_size(size: Any) -> Literal["input"] | int | tuple[int, ...] | None:
    if isinstance(size, str) and size == "input":
        return "input"
    if isinstance(size, str | bool):
        raise TypeError(f"size must be None, 'input', a number or several, as (h, w), got {size!r}")
    if size is None or isinstance(size, Sequence):
        return checks.sizes(size, None)
    (number,) = checks.sizes((size,), None) or (0,)
    return number


def _variants(method: Methods) -> dict[str, Variant]:
    """The methods by the names under which their maps come back."""
    if isinstance(method, str):
        named = {method: method}
    elif isinstance(method, Mapping):
        named = dict(method)
    elif isinstance(method, Sequence):
        named = {text: text for text in method}
        if len(named) < len(method):
            raise ValueError(f"method must be distinct, got {', '.join(map(repr, method))}")
    else:
        raise TypeError(f"method must be a name, a list or a dict of names, got {type(method).__name__}")
    if not named:
        raise ValueError("method must name at least one, got none")
    for text in named.values():
        checks.choice("method", text.partition(":")[0] if isinstance(text, str) else text, METHODS)
    return {name: variant(text) for name, text in named.items()}


def _bound(variants: Mapping[str, Variant], given: Mapping[str, Any]) -> dict[str, Callable[..., Any]]:
    """The function of each method with those options that it has.

    They are tried on an empty batch, so that a wrong value fails before any forward pass.
    """
    for name in given:
        if not any(name in _options(one.method) for one in variants.values()):
            raise TypeError(_no_option(name, [one.method for one in variants.values()]))
    if given.get("backend") is not None:
        checks.choice("backend", given["backend"], choice.backends())
        choice.load(given["backend"])
    bound = {}
    for name, one in variants.items():
        own = {option: value for option, value in given.items() if option in _options(one.method)} | dict(one.options)
        tried = {option: value for option, value in own.items() if option != "rank"}
        one.function(torch.zeros(0, 1, 1, 1, device="cpu"), **{**tried, "backend": "reference"})
        bound[name] = partial(one.function, **own)
    return bound


def _options(method: str) -> list[str]:
    has = signature(METHODS[method].function).parameters.items()
    return [name for name, parameter in has if parameter.default is not Parameter.empty and name != "size"]


def _no_option(name: str, methods: Sequence[str]) -> str:
    having = [method for method in dict.fromkeys((*BUILT_IN, *methods)) if name in _options(method)]
    if having:
        text = f"method {' and '.join(map(repr, methods))}"
        does = "never centres" if name == "center" else f"has no option {name!r}"
        return f"{text} {does}: {name}= is one of {' and '.join(map(repr, having))}"
    own = [name for name, p in signature(SaliencyExtractor).parameters.items() if p.kind is not Parameter.VAR_KEYWORD]
    has = list(dict.fromkeys([*own, *(option for method in methods for option in _options(method))]))
    near = [_ELSEWHERE[name]] if name in _ELSEWHERE else difflib.get_close_matches(name, has, n=1)
    meant = f": did you mean {near[0]}=? It" if near else "; it"
    return f"SaliencyExtractor has no option {name!r}{meant} has {', '.join(has)}"


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    if isinstance(inputs, tuple | list):
        if not inputs:
            raise ValueError(f"inputs must be pictures or what the model takes, got an empty {type(inputs).__name__}")
        return tuple(inputs), {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    raise TypeError(
        "inputs must be pictures (PIL images or files), a tensor, a tuple or list of arguments, or a mapping, "
        f"got {type(inputs).__name__}"
    )


def _input_sizes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[int, tuple[int, ...]]:
    """By their number, the position modes of the first [B, C, *positions] tensor among the inputs that has so many; two
    also from [C, H, W] images where all agree.
    """
    tensors = list(_tensors((args, kwargs)))
    images = {tuple(tensor.shape[1:]) for tensor in tensors if tensor.ndim == 3}
    sizes = {2: images.pop()} if len(images) == 1 else {}
    sizes |= {tensor.ndim - 2: tuple(tensor.shape[2:]) for tensor in reversed(tensors) if 3 <= tensor.ndim <= 5}
    if not sizes.keys() & {2, 3}:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors) or "no tensor"
        raise ValueError(f"size='input' needs [B, C, H, W] or equal [C, H, W] images among the inputs, got {shapes}")
    return sizes


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
