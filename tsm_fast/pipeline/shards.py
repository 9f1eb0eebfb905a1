"""Parquet shards: one row for each planned image, in order, with its maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

FORMAT_VERSION = 1
ROW_GROUP = 256
OK = "ok"  # the status of a row without an error; other statuses are kinds of errors

# Bits of the column "flags": what a reader of the maps may want to know about an image.
FLAGS = {
    "constant": 1,  # a map has the same value everywhere, so it says nothing
    "overflow": 2,  # finite features gave a map that is not finite in float32
    "turned": 4,  # by its EXIF orientation
    "first_frame": 8,  # of several
    "alpha": 16,  # laid on white
    "reduced": 32,  # from 16 to 8 bits a channel
}


@dataclass(frozen=True)
class MapColumn:
    """One column of maps, named "method/layer".

    `shape` is (h, w); `dtype` that of the stored numbers. float16 and uint8 maps have a float32 column `scale`
    ("method/layer:scale"): the map is `stored * scale`, NaN for an error row.
    """

    name: str
    method: str
    layer: str
    shape: tuple[int, int]
    dtype: str
    scale: str | None

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "shape": list(self.shape)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> MapColumn:
        return cls(**{**values, "shape": (values["shape"][0], values["shape"][1])})
