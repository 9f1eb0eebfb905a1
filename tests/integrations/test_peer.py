"""Tools that are missing or too old: the message says what to install."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tsm_fast.integrations import _peer


def test_a_missing_tool_names_the_extra() -> None:
    with pytest.raises(ImportError, match=r"no-such-tool is not installed: pip install 'tsm_fast\[some-extra\]'"):
        _peer.peer("no-such-tool", "no_such_tool", "1.0", "some-extra")


@pytest.mark.skipif(find_spec("pytorch_grad_cam") is not None, reason="pytorch-grad-cam is installed")
def test_a_missing_grad_cam() -> None:
    with pytest.raises(ImportError, match=r"grad-cam is not installed: pip install 'tsm_fast\[grad-cam\]'"):
        import tsm_fast.integrations.grad_cam  # noqa: F401


def test_an_old_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, oldest in (("0.9.0", "0.10"), ("1.5.4", "1.5.5"), ("2.0rc1", "2.0.1")):
        monkeypatch.setattr(_peer, "version", lambda _, found=found: found)
        with pytest.raises(ImportError, match=f"torch must be {oldest} or newer, got {found}"):
            _peer.peer("torch", "torch", oldest, "some-extra")
    monkeypatch.setattr(_peer, "version", lambda _: "0.10.0+cpu")
    assert _peer.peer("torch", "torch", "0.9.5", "some-extra").__name__ == "torch"
