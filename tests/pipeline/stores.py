"""Stores behind URLs for tests: fsspec's file system in memory, and S3 by a server on this machine."""

from __future__ import annotations

from collections.abc import Iterator

import fsspec
import pytest


@pytest.fixture
def memory_box() -> Iterator[str]:
    yield "memory://box"
    fsspec.filesystem("memory").rm("/box", recursive=True)


@pytest.fixture(scope="module")
def s3_box() -> Iterator[str]:
    """A bucket."""
    server = pytest.importorskip("moto.server", reason="needs moto[server] for a local S3")
    s3fs = pytest.importorskip("s3fs", reason="needs the extra s3")
    running = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        s3fs.S3FileSystem.clear_instance_cache()  # those of another server
        s3fs.S3FileSystem().mkdir("box")
        yield "s3://box"
        s3fs.S3FileSystem(use_listings_cache=False).rm("box", recursive=True)
        s3fs.S3FileSystem.clear_instance_cache()
    running.stop()
