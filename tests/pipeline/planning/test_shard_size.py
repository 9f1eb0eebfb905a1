"""The size of shards that nobody named: all workers have work, and little is lost by an interruption."""

from __future__ import annotations

import pytest

from tsm_fast.pipeline.planning.shard_size import CPU, GPU, shard_size

INPUT = (3, 224, 224)


@pytest.mark.parametrize(
    ("images", "shape", "devices", "batch", "size"),
    [
        (400, INPUT, ["cpu"] * 2, 64, 208),  # one for each
        (10, INPUT, ["cpu"] * 2, 64, 64),  # not worth another process
        (1_281_167, INPUT, ["cpu"] * 64, 64, 256),
        (5000, INPUT, ["cpu"] * 2, 64, 256),
        (5000, (3, 448, 448), ["cpu"] * 2, 64, 64),
        (5000, INPUT, ["cpu"] * 64, 64, 80),
        (70_000, INPUT, ["cuda:0"] * 2, 64, 3904),
        (70_000, INPUT, ["cuda:0"], 256, 4096),
        (9, (3, 4000, 4000), ["cpu"], 4, 4),
        (9, (3, 8, 8), [], 7, 1029),
    ],
)
def test_size(images: int, shape: tuple[int, ...], devices: list[str], batch: int, size: int) -> None:
    assert shard_size(images, shape, devices, batch) == size


def test_every_worker_has_about_as_much_work() -> None:
    for images in range(1, 20_000, 97):
        for workers in (1, 2, 3, 8, 40):
            size = shard_size(images, INPUT, ["cpu"] * workers, 64)
            shards = -(-images // size)
            assert size <= CPU < GPU
            rounds = -(-shards // workers)  # that the busiest worker has
            assert rounds * size <= images / workers + size
