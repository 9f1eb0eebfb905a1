"""`SaliencyStage`, as a callable, and in Ray Data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tsm_fast.pipeline.engines.run import run
from tsm_fast.pipeline.results.reader import SaliencyDataset
from tsm_fast.pipeline.worker.ray_data import SaliencyStage

from ..processes import LIMIT, ROOT, SHARD, needs_photos, photos, plan

pytestmark = pytest.mark.slow


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


MODEL = """
import torch

def spoiled():
    layer = torch.nn.Conv2d(3, 32, 3)
    torch.nn.init.constant_(layer.bias, float("nan"))
    return torch.nn.Sequential(layer)
"""


def test_a_spoiled_map_has_the_error_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spoiled_network.py").write_text(MODEL)
    monkeypatch.syspath_prepend(tmp_path)
    stage = SaliencyStage(model="spoiled_network:spoiled", layers=("0",), methods=("tsm",), size=(16, 16))
    made = stage({"image": np.zeros((17, 20, 20, 3), np.uint8)})  # more than go through the network at once
    assert list(made["status"]) == ["non-finite"] * 17
    assert set(made["error"]) == {"the model gives NaN or Inf at layer '0'"}
    assert np.isnan(made["tsm/0"]).all()


RAY_DATA = """
import json, sys
import ray
from tsm_fast.pipeline.worker.ray_data import SaliencyStage

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
files = ray.data.read_binary_files(sys.argv[1], include_paths=True)
one = ray.data.ActorPoolStrategy(size=1)
made = files.map_batches(SaliencyStage, batch_size=8, fn_constructor_kwargs={"methods": ("tsm",)}, compute=one)
print(json.dumps([[row["status"], row["tsm/features"].shape] for row in made.take_all()]))
"""


def test_in_ray_data() -> None:
    needs_photos()
    pytest.importorskip("ray", reason="needs the extra ray")
    folder = next(path for path in sorted(photos().iterdir()) if path.is_dir())
    command = [sys.executable, "-c", RAY_DATA, str(folder)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads(done.stdout.splitlines()[-1])
    assert rows == [["ok", [7, 7]]] * len(list(folder.iterdir()))
