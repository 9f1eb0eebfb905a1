"""How many images a shard has, where nobody says it."""

from __future__ import annotations

from collections.abc import Sequence

PIXELS = 224 * 224  # of an image that counts as one
CPU, GPU = 256, 4096  # such images in a shard: seconds of work for one worker
LEAST = 4  # the part of them that is worth starting another worker
STEP = 16  # images that go through the network at once on the CPU


def shard_size(images: int, shape: Sequence[int], devices: Sequence[str], batch_size: int) -> int:
    """Images in a shard, for inputs of a shape [..., H, W] and the devices of all workers.

    Small enough that an interruption loses seconds, and such that every worker has equally many shards.

    >>> shard_size(400, (3, 224, 224), ["cpu", "cpu"], 64)
    208
    """
    cpu = all(device == "cpu" for device in devices)
    step = min(STEP, batch_size) if cpu else batch_size
    most = min(max((CPU if cpu else GPU) * PIXELS // (shape[-2] * shape[-1]), step), GPU)
    workers = max(len(devices), 1)
    rounds = -(-images // (most * workers))
    size = max(-(-images // (max(rounds, 1) * workers)), most // LEAST, 1)
    return -(-size // step) * step
