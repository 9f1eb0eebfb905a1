"""Pictures of known content: cut-outs on grounds, with the exact mask of the object."""

from __future__ import annotations

import errno
import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

SIZE = 64  # of a composite, and of the longer side of a cut-out that is kept
CROPS = 192  # of every ground
HELD_OUT = 0.2

# Left out of the stamps: what is drawn, what is a sign, what is there twice, what is too small or thin to be seen.
NOT_BELOW = frozenset({"cartoon", "symbols", "roadsigns", "flags", "seasonal", "naturalforces"})
SHORTEST = 40  # pixels of the shorter side of an object
FILLED = 0.15  # of its box
ONE_COLOUR = 0.1  # of its pixels, at most: a drawing has more
MAX_PIXELS = 8_000_000  # of a ground: larger files hold the same pictures again

TEXTURES = (  # of scikit-image, without an object of their own
    "brick.png",
    "grass.png",
    "gravel.png",
    "ihc.png",
    "hubble_deep_field.jpg",
    "microaneurysms.png",
    "moon.png",
    "page.png",
    "retina.jpg",
    "text.png",
)


class Composites(NamedTuple):
    """A batch."""

    images: Tensor  # [B, 3, 64, 64] in 0..1
    masks: Tensor  # [B, 64, 64] bool, of the object
    objects: Tensor  # [B] indices of the cut-outs
    grounds: Tensor  # [B] indices of the ground pictures


@dataclass(frozen=True)
class Pictures:
    """Cut-outs and crops of grounds, ready to be put together."""

    names: tuple[str, ...]  # of the cut-outs
    cutouts: Tensor  # [N, 4, 64, 64] uint8: RGB multiplied by alpha, and alpha
    ground_names: tuple[str, ...]
    crops: Tensor  # [G, CROPS, 3, 64, 64] uint8

    @property
    def digest(self) -> str:
        """sha256 of all of it, and of the split."""
        sha = hashlib.sha256("\n".join((*self.names, "", *self.ground_names)).encode())
        sha.update(self.cutouts.numpy().data)
        sha.update(self.crops.numpy().data)
        return sha.hexdigest()

    def split(self) -> tuple[Pictures, Pictures]:
        """The pictures to learn from, and those that are held out, cut-outs and grounds alike."""
        new, far = held_out(self.names), held_out(self.ground_names)
        return self.chosen(~new, ~far), self.chosen(new, far)

    def chosen(self, objects: Tensor, grounds: Tensor) -> Pictures:
        """Those of two masks, [N] and [G]."""
        return Pictures(
            tuple(name for name, is_in in zip(self.names, objects.tolist(), strict=True) if is_in),
            self.cutouts[objects],
            tuple(name for name, is_in in zip(self.ground_names, grounds.tolist(), strict=True) if is_in),
            self.crops[grounds],
        )

    def draw(self, objects: Tensor, grounds: Tensor, draws: torch.Generator) -> Composites:
        """Composites of these cut-outs on crops of these grounds, [B] indices each.

        The object is turned by at most 20 degrees, mirrored or not, 24 to 52 pixels long, lies wholly in the picture,
        and has its light changed by at most a fifth; the ground is mirrored or not.
        """
        count = len(objects)
        random = torch.rand(8, count, generator=draws)
        angle = (random[0] * 2 - 1) * math.radians(20)
        length = (24 + 28 * random[1]) / SIZE
        mirror = torch.where(random[2] < 0.5, 1.0, -1.0)
        pixels = self.cutouts[objects].float() / 255  # [B, 4, 64, 64]
        reach = _reach(pixels[:, 3], angle, mirror) * length[:, None]  # [B, 2] half of the object's width and height
        shift = (1 - reach).clamp_min(0) * (random[3:5].T * 2 - 1)  # [B, 2] of its middle, in half pictures
        cos, sin = angle.cos(), angle.sin()
        rows = torch.stack((torch.stack((cos * mirror, sin * mirror), 1), torch.stack((-sin, cos), 1)), 1)
        rows = rows / length[:, None, None]
        theta = torch.cat((rows, -(rows @ shift[:, :, None])), 2)  # [B, 2, 3] from the picture to the cut-out
        grid = functional.affine_grid(theta, [count, 4, SIZE, SIZE], align_corners=False)
        placed = functional.grid_sample(pixels, grid, align_corners=False)
        alpha = placed[:, 3:]
        light = 1 + 0.4 * (random[5] - 0.5)[:, None, None, None]
        crop = (random[6] * self.crops.shape[1]).long()
        ground = self.crops[grounds, crop].float() / 255
        ground = torch.where(random[7][:, None, None, None] < 0.5, ground, ground.flip(3))
        images = ((placed[:, :3] * light).clamp_max(1) + (1 - alpha) * ground).clamp(0, 1)
        return Composites(images, alpha[:, 0] >= 0.5, objects, grounds)

    def batch(self, count: int, draws: torch.Generator) -> Composites:
        """Any cut-outs on any grounds."""
        objects = torch.randint(len(self.names), (count,), generator=draws)
        grounds = torch.randint(len(self.ground_names), (count,), generator=draws)
        return self.draw(objects, grounds, draws)


def held_out(names: Iterable[str]) -> Tensor:
    """Which fifth of the names is held out, [N] bool: those whose hash is lowest, at least one."""
    ranks = [hashlib.sha256(name.encode()).hexdigest() for name in names]
    border = sorted(ranks)[max(round(len(ranks) * HELD_OUT), 1) - 1]
    return torch.tensor([rank <= border for rank in ranks])


def generator(*seed: int | str) -> torch.Generator:
    """Random numbers of a name: of a seed, a purpose, a step."""
    sha = hashlib.sha256("/".join(map(str, seed)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(sha[:7], "big"))


def read(stamps: Path, grounds: Path, textures: Path | None) -> Pictures:
    """The pictures of a folder of cut-outs with alpha, of one of grounds, and the textures of scikit-image.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: fewer than ten cut-outs, or five grounds.
    """
    for folder in (stamps, grounds):
        if not folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, "there is no such folder", str(folder))
    names, cutouts, seen = [], [], set()
    for path in sorted(stamps.rglob("*.png")):
        inside = path.relative_to(stamps)
        if NOT_BELOW & set(inside.parts[:-1]) or path.stem.endswith("_mirror"):
            continue
        pixels = np.asarray(Image.open(path).convert("RGBA"))
        mark = hashlib.sha256(pixels.tobytes()).digest()
        if mark in seen or not usable(pixels):
            continue
        seen.add(mark)
        names.append(inside.with_suffix("").as_posix())
        cutouts.append(cutout(pixels))
    places = {path.relative_to(grounds).as_posix(): path for path in sorted(grounds.rglob("*")) if _is_ground(path)}
    places |= {f"skimage/{name}": textures / name for name in TEXTURES if textures is not None}
    if len(names) < 10 or len(places) < 5:
        raise ValueError(
            f"the testbed needs 10 cut-outs and 5 grounds, got {len(names)} that can be used in {stamps} and "
            f"{len(places)} in {grounds}"
        )
    crops = torch.stack([_crops(path, name) for name, path in places.items()])
    return Pictures(tuple(names), torch.stack(cutouts), tuple(places), crops)


def usable(pixels: np.ndarray) -> bool:
    """Whether a cut-out, [H, W, 4] uint8, is a photograph of something large enough."""
    opaque = pixels[..., 3] >= 128
    if not opaque.any() or opaque.all():
        return False
    top, bottom, left, right = _box(opaque)
    tall, wide = bottom - top, right - left
    colours = pixels[opaque][:, :3].astype(np.int32) @ np.array([65536, 256, 1])
    commonest = np.unique(colours, return_counts=True)[1].max()
    return (
        min(tall, wide) >= SHORTEST and len(colours) >= FILLED * tall * wide and commonest <= ONE_COLOUR * len(colours)
    )


def cutout(pixels: np.ndarray) -> Tensor:
    """A cut-out, [H, W, 4] uint8, in the middle of [4, 64, 64], its colours multiplied by alpha."""
    top, bottom, left, right = _box(pixels[..., 3] >= 128)
    part = Image.fromarray(np.ascontiguousarray(pixels[top:bottom, left:right])).convert("RGBa")
    scale = SIZE / max(part.size)
    wide, tall = (max(round(side * scale), 1) for side in part.size)
    small = np.asarray(part.resize((wide, tall), Image.Resampling.BOX if scale < 0.5 else Image.Resampling.BILINEAR))
    canvas = np.zeros((SIZE, SIZE, 4), np.uint8)
    y, x = (SIZE - tall) // 2, (SIZE - wide) // 2
    canvas[y : y + tall, x : x + wide] = small
    return torch.from_numpy(canvas).permute(2, 0, 1).contiguous()


def _box(opaque: np.ndarray) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of what is true."""
    rows, columns = np.flatnonzero(opaque.any(1)), np.flatnonzero(opaque.any(0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _is_ground(path: Path) -> bool:
    if path.suffix.lower() not in (".jpg", ".jpeg", ".png", ".webp"):
        return False
    with Image.open(path) as image:
        return image.width * image.height <= MAX_PIXELS and min(image.size) >= SIZE


def _crops(path: Path, name: str) -> Tensor:
    """Squares of a picture, from an eighth of its shorter side to all of it, [CROPS, 3, 64, 64] uint8."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    image.thumbnail((768, 768))
    random = np.random.default_rng(list(hashlib.sha256(name.encode()).digest()))
    shorter = min(image.size)
    found = []
    for _ in range(CROPS):
        side = max(shorter * random.uniform(0.125, 1), min(SIZE, shorter))
        x, y = random.uniform(0, image.width - side), random.uniform(0, image.height - side)
        square = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=(x, y, x + side, y + side))
        found.append(torch.from_numpy(np.array(square)).permute(2, 0, 1))
    return torch.stack(found)


def _reach(alpha: Tensor, angle: Tensor, mirror: Tensor) -> Tensor:
    """Half of the width and height of turned objects, [B, 2], in half cut-outs, from alpha [B, 64, 64]."""
    ends = torch.linspace(-1, 1, SIZE)
    opaque = alpha >= 0.5
    wide = (opaque.any(1) * ends.abs()).amax(1)  # the object is in the middle of its cut-out
    tall = (opaque.any(2) * ends.abs()).amax(1)
    cos, sin = angle.cos().abs(), angle.sin().abs()
    return torch.stack((wide * cos + tall * sin, wide * sin + tall * cos), 1)
