"""Two picture packages of Debian, fetched once into a folder and unpacked there, without root."""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import shutil
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError

POOL = "https://deb.debian.org/debian/pool/main"
SNAPSHOT = "https://snapshot.debian.org/archive/debian/20230601T000000Z/pool/main"  # where the pool has moved on


class Package(NamedTuple):
    """A package at one version: what is computed from it is the same everywhere."""

    name: str
    place: str  # in the pool
    size: int  # in bytes
    sha256: str
    holds: str  # the folder of pictures in it

    @property
    def file(self) -> str:
        return self.place.rpartition("/")[2]


STAMPS = Package(
    "tuxpaint-stamps-default",
    "t/tuxpaint-stamps/tuxpaint-stamps-default_2022.06.04-1_all.deb",
    160_880_444,
    "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    "usr/share/tuxpaint/stamps",
)
GROUNDS = Package(
    "mate-backgrounds",
    "m/mate-backgrounds/mate-backgrounds_1.26.0-1_all.deb",
    46_638_500,
    "7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04",
    "usr/share/backgrounds/mate",
)


def cache_folder() -> Path:
    """`$TSM_FAST_CACHE`, or `tsm_fast` in the user's folder of caches."""
    if (own := os.environ.get("TSM_FAST_CACHE")) is not None:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "tsm_fast")


def fetched(package: Package, cache: Path, say: Callable[[str], object]) -> Path:
    """The folder with the pictures of a package; downloaded and unpacked where it is not there yet.

    A `.deb` of that name which already lies in `cache` is used, as `apt-get download` leaves it.

    Raises:
        ConnectionError: no server has it, or none is in reach.
        ValueError: a file with another content.
    """
    folder = cache / package.file.removesuffix(".deb")
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        deb = cache / package.file
        if not deb.is_file():
            _download(package, deb, say)
        _checked(package, deb)
        say(f"unpacking {package.file}")
        with tempfile.TemporaryDirectory(dir=cache) as fresh:
            unpack(deb, Path(fresh), package.holds)
            os.rename(Path(fresh, package.holds), folder)
        deb.unlink()
    return folder


def unpack(deb: Path, out: Path, holds: str) -> None:
    """The files below `holds` of a package."""
    with tarfile.open(fileobj=io.BytesIO(_data(deb))) as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            if member.isfile() and name.startswith(holds + "/") and ".." not in name.split("/"):
                path = out / name
                path.parent.mkdir(parents=True, exist_ok=True)
                source = tar.extractfile(member)
                assert source is not None
                with source, path.open("wb") as target:
                    shutil.copyfileobj(source, target)


def _data(deb: Path) -> bytes:
    """The member `data.tar` of a package: an `ar` archive."""
    with deb.open("rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise ValueError(f"{deb} is no Debian package")
        while head := file.read(60):
            name, size = head[:16].decode().strip().rstrip("/"), int(head[48:58])
            content = file.read(size + size % 2)[:size]
            if name == "data.tar.xz":
                return lzma.decompress(content)
            if name == "data.tar":
                return content
    raise ValueError(f"{deb} has no data.tar.xz")


def _download(package: Package, deb: Path, say: Callable[[str], object]) -> None:
    problems = []
    for server in (POOL, SNAPSHOT):
        url = f"{server}/{package.place}"
        say(f"downloading {url} ({package.size / 1e6:.0f} MB)")
        part = deb.with_suffix(".part")
        try:
            with urllib.request.urlopen(url, timeout=60) as answer, part.open("wb") as file:
                shutil.copyfileobj(answer, file, 1 << 20)
        except (URLError, TimeoutError, ConnectionError) as error:
            problems.append(f"{url}: {getattr(error, 'reason', error)}")
            part.unlink(missing_ok=True)
        else:
            os.rename(part, deb)
            return
    raise ConnectionError(
        f"the testbed needs Debian's {package.name}, and there is no way to it ({'; '.join(problems)}): put "
        f"{package.file} into {deb.parent} (`apt-get download {package.name}` fetches it), or name a folder of your own"
    )


def _checked(package: Package, deb: Path) -> None:
    sha = hashlib.sha256()
    with deb.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    if sha.hexdigest() != package.sha256:
        raise ValueError(
            f"{deb} must have the sha256 {package.sha256[:16]}…, got {sha.hexdigest()[:16]}…: delete it, or take the "
            "version that the name says"
        )
