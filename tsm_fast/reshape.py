"""Other layouts as `[B, C, H, W]`: the tokens of vision transformers, and channels that come last."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

# Whose networks may give tokens or [B, H, W, C] without it being declared.
PACKAGES = ("timm", "torchvision", "transformers")
UNORDERED = "Hiera"  # whose tokens lie window by window, until its last stage
MAX_PREFIX = 16  # class and register tokens

Shape = tuple[int, ...]
Grid = tuple[int, int]


@dataclass(frozen=True)
class Tokens:
    """`[B, prefix + H * W, C]` as `[B, C, H, W]`: for `SaliencyExtractor(..., reshape_transform=Tokens(prefix=1))`.

    Args:
        prefix: how many tokens stand before those of the picture (class and register tokens). None: what is left
            beside the largest square.
        grid: (H, W) of the tokens of the picture; None for a square.

    Calling it raises ValueError for features of another shape.

    >>> import torch
    >>> Tokens()(torch.rand(2, 1 + 14 * 14, 192)).shape
    torch.Size([2, 192, 14, 14])
    >>> Tokens(prefix=5, grid=(8, 16))(torch.rand(2, 5 + 8 * 16, 384)).shape
    torch.Size([2, 384, 8, 16])
    """

    prefix: int | None = None
    grid: Grid | None = None

    def __call__(self, features: Tensor) -> Tensor:
        if not isinstance(features, Tensor) or features.ndim != 3:
            raise ValueError(f"Tokens takes [B, N, C], got {_got(features)}")
        number = features.shape[1]
        side = int((number - (self.prefix or 0)) ** 0.5) if number > (self.prefix or 0) else 0
        h, w = self.grid or (side, side)
        prefix = number - h * w if self.prefix is None else self.prefix
        if min(h, w) < 1 or prefix < 0 or prefix + h * w != number:
            raise ValueError(f"{number} tokens are not {prefix} + {h} x {w}: name prefix= and grid=")
        return features[:, prefix:].mT.unflatten(2, (h, w))

    def __str__(self) -> str:
        return f"{self.prefix or ''}{' + ' * bool(self.prefix)}{' x '.join(map(str, self.grid or ()))} tokens"


@dataclass(frozen=True)
class ChannelsLast:
    """`[B, H, W, C]` as `[B, C, H, W]`.

    >>> import torch
    >>> ChannelsLast()(torch.rand(2, 7, 7, 768)).shape
    torch.Size([2, 768, 7, 7])
    """

    def __call__(self, features: Tensor) -> Tensor:
        if not isinstance(features, Tensor) or features.ndim != 4:
            raise ValueError(f"ChannelsLast takes [B, H, W, C], got {_got(features)}")
        return features.permute(0, 3, 1, 2)

    def __str__(self) -> str:
        return "channels last"


Layout = Tokens | ChannelsLast

NAMES = ("auto", "tokens", "nhwc")


@dataclass(frozen=True)
class Convolution:
    """The shapes at one run of a `Conv2d`, from which a forward pass shows its grids."""

    given: Shape
    made: Shape


def decodes(kind: type) -> bool:
    """Whether a class of modules is a decoder, or a part of one."""
    return "Decoder" in kind.__name__


def found_in(path: Iterable[nn.Module]) -> bool:
    """Whether one of the modules around a layer, or itself, comes from `PACKAGES`, with its tokens row by row.

    Those of a decoder are queries, which may be as many as some grid has.
    """
    kinds = [base for module in path for base in type(module).__mro__]
    own = [base for base in kinds if base.__module__.partition(".")[0] in PACKAGES]
    return bool(own) and not any(base.__name__.startswith(UNORDERED) or decodes(base) for base in own)


def layout(shape: Shape | None, convolutions: Sequence[Convolution]) -> Layout | None:
    """How features of this shape become `[B, C, H, W]`, judged by the convolutions before them; None for no way.

    Tokens must be those of a grid that a convolution gave, before which up to `MAX_PREFIX` stand, or of that grid
    halved, as Swin does. Windows of the picture, each an item of a larger batch, are none.
    """
    if shape is None or not convolutions or shape[0] != convolutions[0].given[0]:
        return None
    image = convolutions[0].given
    if len(shape) == 4 and not is_map(shape, image) and keeps_aspect(shape[1:3], image):
        return ChannelsLast()
    return tokens(shape[1], [run.made for run in convolutions]) if len(shape) == 3 else None


def tokens(number: int, maps: Sequence[Shape]) -> Tokens | None:
    """The grid that so many tokens are: of one of the maps `[B, C, H, W]`, the last first, or of one that was halved.

    >>> tokens(197, [(1, 192, 14, 14)]), tokens(49, [(1, 96, 56, 56)]), tokens(50, [(1, 192, 14, 14)])
    (Tokens(prefix=1, grid=(14, 14)), Tokens(prefix=0, grid=(7, 7)), Tokens(prefix=1, grid=(7, 7)))
    """
    ways: list[tuple[int, int, Grid]] = []
    for place, made in enumerate(dict.fromkeys(shape[2:] for shape in reversed(maps) if len(shape) == 4)):
        for halvings, (h, w) in enumerate(_halved((made[0], made[1]))):
            prefix = number - h * w
            if min(h, w) > 1 and 0 <= prefix <= (1 if halvings else MAX_PREFIX):
                ways.append((prefix, place, (h, w)))
    if not ways:
        return None
    prefix, _, grid = min(ways)
    return Tokens(prefix, grid)


def _halved(grid: Grid) -> list[Grid]:
    """A grid, and what is left of it after each halving, as networks round that that pad."""
    grids = [grid]
    while min(grids[-1]) > 1:
        h, w = grids[-1]
        grids.append((-(-h // 2), -(-w // 2)))
    return grids


def is_map(shape: Shape | None, image: Shape | None) -> bool:
    """[B, C, H, W] with H, W > 1 and the aspect of the image, which [B, H, W, C] does not have."""
    return shape is not None and len(shape) == 4 and keeps_aspect(shape[2:], image)


def keeps_aspect(size: Shape, image: Shape | None) -> bool:
    h, w = size
    if image is None or len(image) != 4:
        return min(h, w) > 1
    height, width = image[2:]
    return min(h, w) > 1 and abs(h * width - w * height) <= 2 * (height + width)  # 2: cut and padded borders


def _got(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
