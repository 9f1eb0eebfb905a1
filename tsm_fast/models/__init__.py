"""Models with their preprocessing and weights."""

from .lite0 import central_square, lite0, lite0_inputs
from .load import Model, load

__all__ = ["Model", "central_square", "lite0", "lite0_inputs", "load"]
