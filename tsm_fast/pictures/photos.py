"""Real photos that lie in the installed scikit-image and scikit-learn packages: nothing is downloaded."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from .decode import FORMATS, ImageError, decode


class Photo(NamedTuple):
    """A picture with what is said under it."""

    name: str
    credit: str
    image: Image.Image  # RGB


class _Source(NamedTuple):
    name: str
    package: str
    path: str
    credit: str


# Names are the subjects; credits and licences are those stated by the packages.
_SOURCES = (
    _Source("astronaut", "skimage", "data/astronaut.png", "Eileen Collins, NASA, public domain"),
    _Source("cat", "skimage", "data/chelsea.png", "Stefan van der Walt, CC0"),
    _Source("coffee", "skimage", "data/coffee.png", "Rachel Michetti, CC0"),
    _Source("rocket", "skimage", "data/rocket.jpg", "SpaceX, public domain"),
    _Source("motorcycle", "skimage", "data/motorcycle_left.png", "Middlebury stereo benchmark 2014"),
    _Source("cameraman", "skimage", "data/camera.png", "Lav Varshney, CC0"),
    _Source("coins", "skimage", "data/coins.png", "Brooklyn Museum, no known copyright restrictions"),
    _Source("deep field", "skimage", "data/hubble_deep_field.jpg", "Hubble, NASA, public domain"),
    _Source("pagoda", "sklearn", "datasets/images/china.jpg", "danielbuechele on Flickr, CC BY 2.0"),
    _Source("flower", "sklearn", "datasets/images/flower.jpg", "vultilion on Flickr, CC BY 2.0"),
)


def load_photos() -> list[Photo]:
    """The ten photos, in RGB.

    Raises:
        ModuleNotFoundError: scikit-image or scikit-learn (extra `demo`) is not installed.
        FileNotFoundError: the installed version does not hold the file.
    """
    return [Photo(source.name, source.credit, open_photo(_path(source))) for source in _SOURCES]


def open_photo(path: str | Path) -> Image.Image:
    """A picture file in RGB, upright, by the policy of `decode`.

    Raises:
        FileNotFoundError, PermissionError, IsADirectoryError: as `open` does.
        ValueError: no readable picture of a known format, or more pixels than Pillow's safety limit.
    """
    try:
        return decode(Path(path).read_bytes(), max_pixels=sys.maxsize).image  # Pillow has a limit of its own
    except ImageError as error:
        if error.kind in ("empty", "format"):
            raise ValueError(f"{path} is not a readable picture: need one of {', '.join(FORMATS)}") from None
        what = "has too many pixels" if error.kind == "too_large" else "cannot be decoded"
        raise ValueError(f"{path} {what}: {error}") from None


def _path(source: _Source) -> Path:
    spec = find_spec(source.package)  # found, not imported: that would take a second
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"No module named {source.package!r}", name=source.package)
    return Path(spec.submodule_search_locations[0], source.path)
