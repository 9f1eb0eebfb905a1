"""`SaliencyStage`, as a callable, and in Ray Data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tsm_fast.pipeline.engines import run
from tsm_fast.pipeline.reader import SaliencyDataset
from tsm_fast.pipeline.stage import SaliencyStage

from .processes import SHARD, needs_photos, photos, plan


def test_a_batch_gets_the_maps_of_a_run(tmp_path: Path) -> None:
    needs_photos()
    run_ = plan(tmp_path, limit=SHARD)
    run(run_, workers=0)
    expected = SaliencyDataset(tmp_path)
    keys = [item.key for item in expected]
    files = [(photos() / key).read_bytes() for key in keys]
    stage = SaliencyStage(methods=("tsm", "mtsm"))
    made = stage({"bytes": np.array([*files, b"", files[0][:300]], dtype=object), "path": np.array([*keys, "a", "b"])})
    assert list(made["path"]) == [*keys, "a", "b"]
    assert list(made["status"]) == ["ok"] * SHARD + ["empty", "truncated"]
    assert all(made["error"][SHARD:])
    for column in ("tsm/features", "mtsm/features"):
        maps = expected.numpy(column)
        np.testing.assert_allclose(made[column][:SHARD], maps, atol=1e-4 * maps.max())  # another batch, other bits
        assert np.isnan(made[column][SHARD:]).all()


def test_pixels_and_empty_batches() -> None:
    needs_photos()
    stage = SaliencyStage("picture", methods=("tsm",))
    pixels = np.asarray(Image.open(sorted(photos().rglob("*.jpg"))[0]))
    assert stage({"picture": np.stack([pixels] * 2)})["tsm/features"].shape == (2, 7, 7)
    ragged = np.empty(2, object)
    ragged[:] = [pixels, pixels[:100]]
    assert list(stage({"picture": ragged})["status"]) == ["ok", "ok"]
    assert stage({"picture": np.zeros((0, 8, 8, 3), np.uint8)})["tsm/features"].shape == (0, 7, 7)
    with pytest.raises(KeyError, match="needs a column 'picture', got 'image'"):
        stage({"image": pixels[None]})
    with pytest.raises(ValueError, match="close names"):
        SaliencyStage(layers=("featurs",))
