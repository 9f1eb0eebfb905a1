"""The Ray engine on one machine, a head without CPUs and two nodes of one: workers, nodes and drivers are lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ..processes import SHARDS, arguments, end, expected, hashes, leftovers, markers, needs_photos, start, wait_for

pytestmark = pytest.mark.slow

STORE = 80 * 2**20  # bytes of the object store of a node, the least that Ray takes


@pytest.fixture
def cluster() -> Iterator[Any]:
    pytest.importorskip("ray", reason="needs the extra ray")
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield cluster
    finally:
        cluster.shutdown()


def tasks(node: Any = None) -> list[int]:
    """The processes of Ray that compute a shard now, of all nodes."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if name.startswith(b"ray::") and b"compute" in name:
            found.append(int(folder.name))
    return found


def kill_a_task() -> bool:
    """Whether there was one to kill: a task may end between two looks."""
    for process in tasks():
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
            return True
    return False


def test_a_worker_a_driver_and_a_node_are_lost(cluster: Any, tmp_path: Path) -> None:
    needs_photos()
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=STORE) for _ in range(2)]
    command = arguments(tmp_path, "--engine", "ray")
    environment = {"RAY_ADDRESS": cluster.address, "OMP_WAIT_POLICY": "passive"}

    driver = start(command, **environment)
    wait_for(lambda: markers(tmp_path) > 0, driver)
    driver.send_signal(signal.SIGTERM)
    code, _, talk = end(driver)
    assert code == 143, talk
    assert "SIGTERM: stopping after the micro-batch" in talk
    assert leftovers(tmp_path) == []

    driver, done = start(command, **environment), markers(tmp_path)
    wait_for(lambda: markers(tmp_path) > done and kill_a_task(), driver)
    driver.kill()  # and the driver
    end(driver)
    assert markers(tmp_path) < SHARDS

    driver, done = start(command, **environment), markers(tmp_path)
    wait_for(lambda: markers(tmp_path) > done and kill_a_task(), driver)
    cluster.remove_node(nodes[0], allow_graceful=False)  # and a node
    code, text, talk = end(driver)
    assert code == 0, talk
    assert f"{SHARDS} of {SHARDS} shards" in text
    assert hashes(tmp_path) == expected()
    assert leftovers(tmp_path) == []
