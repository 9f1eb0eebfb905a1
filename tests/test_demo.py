"""The demo on the real photos through the real network."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import tsm_fast
from tsm_fast import demo, models
from tsm_fast.bench import clock, peers, timings
from tsm_fast.methods import BUILT_IN
from tsm_fast.pictures import load_photos

from .needs import NETWORK, PHOTOS, needs

pytestmark = [pytest.mark.slow, needs(*NETWORK, *PHOTOS, "cmap", "jinja2", "tensorly")]


@pytest.fixture(scope="module")
def features() -> Tensor:  # [10, 1280, 7, 7]
    with torch.no_grad():
        return models.lite0().get_submodule("features")(models.lite0_inputs([photo.image for photo in load_photos()]))


def test_demo_writes_sheet_page_and_maps(tmp_path: Path, features: Tensor) -> None:
    said: list[str] = []
    result = demo.run(tmp_path / "new" / "out", timing=False, say=said.append)
    assert len(said) == demo.STEPS
    assert [path.name for path in result.files] == ["contact_sheet.png", "index.html", "maps.npz"]
    assert sorted((tmp_path / "new" / "out").iterdir()) == sorted(result.files)
    assert result.layer == "features"
    assert "before the global pooling 'pool'" in result.reason
    assert result.timings == []
    with Image.open(result.files[0]) as sheet:
        assert sheet.height > 10 * 224
    page = result.files[1].read_text()
    assert all(name in page for name in result.photos)
    with np.load(result.files[2]) as arrays:
        assert arrays["names"].tolist() == result.photos
        for method, row in BUILT_IN.items():
            expected = row.function(features, normalize=False).numpy()
            assert arrays[method].dtype == np.float32
            assert np.abs(arrays[method] - expected).max() <= 2e-5 * expected.max()  # other threads, other rounding


def test_demo_on_own_photos(tmp_path: Path) -> None:
    photo = load_photos()[1].image
    photo.save(tmp_path / "a & b.jpg")
    photo.convert("L").save(tmp_path / "<grey>.png")
    paths = [tmp_path / "a & b.jpg", tmp_path / "<grey>.png"]
    result = demo.run(tmp_path / "out", paths, timing=False, say=lambda _: None)
    assert result.photos == ["a & b.jpg", "<grey>.png"]
    page = result.files[1].read_text()
    assert "a &amp; b.jpg" in page
    assert "&lt;grey&gt;.png" in page
    assert "<grey>" not in page


def test_demo_refuses_before_it_makes_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match="not a readable picture"):
        demo.run(out, [tmp_path / "text.png"], say=lambda _: None)
    with pytest.raises(ValueError, match="photos must be at most 64, got 65"):
        demo.run(out, [tmp_path / "text.png"] * 65, say=lambda _: None)
    if not tsm_fast.backends()["triton"].available:
        with pytest.raises(RuntimeError, match="backend 'triton' cannot run"):
            demo.run(out, backend="triton", say=lambda _: None)
    monkeypatch.setattr(demo, "NEEDS", ("torch", "no_such_package"))
    with pytest.raises(ModuleNotFoundError, match=r"the extra 'demo' .* missing: no_such_package"):
        demo.run(out, say=lambda _: None)
    assert not out.exists()


def test_timings_compare_before_they_time(features: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """On 32 of the 1280 channels, where TensorLy's full rank takes milliseconds."""
    said: list[str] = []
    monkeypatch.setattr(clock, "SECONDS", 0.01)
    measured = timings.measure(features[:, :32].contiguous(), None, said.append)
    assert len(said) == timings.STEPS
    assert [(row.method, row.rank) for row in measured] == [
        ("eigencam", None),
        ("tsm", None),
        ("tsm", (16, 4, 4)),
        ("multivec_eigencam", None),
        ("mtsm", None),
    ]
    assert [row.pytorch is not None for row in measured] == [True, True, False, True, True]
    assert [row.tensorly is not None for row in measured] == [False, True, True, False, True]
    assert all(time > 0 for row in measured for time in (row.tsm_fast, row.pytorch or 1, row.tensorly or 1))


def test_no_time_is_given_for_a_peer_with_other_maps(features: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(clock, "SECONDS", 0.01)
    monkeypatch.setitem(peers.PYTORCH, "tsm", lambda x: x.mean(1))
    measured = timings.measure(features[:2, :32].contiguous(), None, said.append)
    assert measured[1].pytorch is None
    assert any("no comparison: the maps differ by" in text for text in said)
    table = demo.timing_table(demo.Result([], [], "", "", "", measured))
    assert table.rows[1][2] == "-"
    assert all(row[1].endswith(" ms") for row in table.rows)


def test_arrays_are_read_without_pickles() -> None:
    arrays = {"maps": np.arange(6.0).reshape(2, 3), "names": np.array(["a", "é"])}
    with np.load(io.BytesIO(demo.npz_bytes(arrays)), allow_pickle=False) as loaded:
        assert np.array_equal(loaded["maps"], arrays["maps"])
        assert loaded["names"].tolist() == ["a", "é"]


def test_the_network_sees_each_photo_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the first of them alone before, when the layer is chosen."""
    seen: list[int] = []
    network = models.lite0()
    network.register_forward_pre_hook(lambda _, images: seen.append(len(images[0])))
    monkeypatch.setattr(models, "lite0", lambda: network)
    demo.run(tmp_path, timing=False, say=lambda _: None)
    assert seen == [1, 1, 10]
