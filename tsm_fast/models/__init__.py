"""Models with their preprocessing and weights."""

from .lite0 import LITE0, lite0, lite0_inputs
from .load import Model, load

__all__ = ["LITE0", "Model", "lite0", "lite0_inputs", "load"]
