"""What a picture is, as a hash: of the bytes of its file, or of its pixels where there is no file."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor


class Content(NamedTuple):
    """How many bytes, and their sha256; None for what is no picture."""

    bytes: int | None
    sha256: str | None


def content(value: Any) -> Content:
    """The bytes of a file as they are; pixels after a line with their kind and shape.

    >>> content(b"abc").bytes, content(np.zeros((2, 3), np.uint8)).bytes
    (3, 6)
    """
    if isinstance(value, bytes | bytearray):
        return Content(len(value), hashlib.sha256(value).hexdigest())
    kind, data = "", None
    if isinstance(value, Image.Image):
        try:
            kind, data = f"{value.mode} {value.size}", value.tobytes()
        except MemoryError:
            raise
        except Exception:  # decoders raise anything on broken data
            return Content(None, None)
    elif isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1)
        kind, data = f"{value.dtype} {tuple(value.shape)}", flat.view(torch.uint8).numpy().data
    elif isinstance(value, np.ndarray) and value.dtype.kind in "uif":
        kind, data = f"{value.dtype} {value.shape}", np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
    if data is None:
        return Content(None, None)
    sha = hashlib.sha256(f"{kind}\n".encode())
    sha.update(data)
    return Content(len(data), sha.hexdigest())
