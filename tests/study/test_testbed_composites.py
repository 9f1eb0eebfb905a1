"""Composites: the same every time, with masks that are exact, of pictures that are kept apart."""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image

from tsm_fast.study.testbed import composites, packages
from tsm_fast.study.testbed.composites import Pictures, generator, held_out, usable
from tsm_fast.study.testbed.packages import Package
from tsm_fast.study.testbed.running import held_out as composites_to_study


def test_pictures(pictures: Pictures) -> None:
    assert len(pictures.names) >= 15
    assert pictures.cutouts.shape == (len(pictures.names), 4, 64, 64)
    assert pictures.crops.shape == (6, composites.CROPS, 3, 64, 64)


def test_equal_draws_are_equal(pictures: Pictures, stamps: Path, grounds: Path) -> None:
    again = composites.read(stamps, grounds, None)
    assert again.digest == pictures.digest
    one, two = pictures.batch(16, generator("a", 3)), again.batch(16, generator("a", 3))
    for here, there in zip(one, two, strict=True):
        assert torch.equal(here, there)
    assert not torch.equal(one.images, pictures.batch(16, generator("a", 4)).images)


def test_masks_are_exact(pictures: Pictures) -> None:
    """On black and on white the same object: where they differ by less than half, the object covers the ground."""
    black = replace(pictures, crops=torch.zeros_like(pictures.crops)).batch(32, generator(0))
    white = replace(pictures, crops=torch.full_like(pictures.crops, 255)).batch(32, generator(0))
    seen = (white.images - black.images).amin(1)  # 1 - alpha, less where the object was brightened over 1
    unlit = black.images.amax(1) < 0.7
    assert torch.equal(black.masks, white.masks)
    sharp = (seen - 0.5).abs() > 1e-5
    assert torch.equal((seen < 0.5)[unlit & sharp], black.masks[unlit & sharp])


def test_objects_lie_wholly_in_the_picture(pictures: Pictures) -> None:
    """What is drawn is as large as the object is, in the length that was drawn."""
    made = pictures.batch(64, generator(1))
    whole = pictures.cutouts[made.objects, 3].float().div(255).ge(0.5).float().mean((1, 2))
    lengths = (made.masks.float().mean((1, 2)) / whole).sqrt() * 64
    assert lengths.min() > 24 - 1.5
    assert lengths.max() < 52 + 1.5


def test_split(pictures: Pictures) -> None:
    known, new = pictures.split()
    assert not set(known.names) & set(new.names)
    assert not set(known.ground_names) & set(new.ground_names)
    assert {*known.names, *new.names} == set(pictures.names)
    assert len(new.names) == round(0.2 * len(pictures.names))
    assert len(new.ground_names) == 1


def test_split_goes_by_names() -> None:
    names = [f"name {number}" for number in range(100)]
    out = dict(zip(names, held_out(names).tolist(), strict=True))
    assert sum(out.values()) == 20
    more = [*reversed(names), "another"]
    assert (
        sum(out[name] != is_out for name, is_out in zip(more, held_out(more).tolist(), strict=True) if name in out) <= 1
    )


def test_composites_to_study(pictures: Pictures) -> None:
    """All on grounds that nothing learns from, half of cut-outs that nothing learns from."""
    known, new = pictures.split()
    made = composites_to_study(pictures)
    assert len(made) == 8 * len(new.names)
    for key, (image, mask, group) in made.items():
        assert group in (new if key.startswith("new/") else known).names
        assert image.shape == (3, 64, 64)
        assert mask.any()
        assert not mask.all()
    again = composites_to_study(pictures)
    assert all(torch.equal(image, again[key][0]) for key, (image, _, _) in made.items())


def photograph(size: int, seed: int = 0) -> np.ndarray:
    pixels = np.zeros((size, size, 4), np.uint8)
    pixels[..., :3] = np.random.default_rng(seed).integers(0, 256, (size, size, 3))
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    pixels[..., 3] = 255 * (x**2 + y**2 < (size / 2) ** 2)
    return pixels


def test_what_is_usable() -> None:
    fine = photograph(60)
    assert usable(fine)
    assert not usable(photograph(30)), "tiny"
    drawn = fine.copy()
    drawn[..., :3] = drawn[..., :3] // 128 * 255
    assert not usable(drawn), "eight colours"
    whole = fine.copy()
    whole[..., 3] = 255
    assert not usable(whole), "no cut-out"
    thin = fine.copy()
    thin[..., 3][np.abs(np.subtract.outer(np.arange(60), np.arange(60))) > 2] = 0
    assert not usable(thin)
    empty = fine.copy()
    empty[..., 3] = 0
    assert not usable(empty)


def test_what_is_left_out(tmp_path: Path, grounds: Path) -> None:
    (tmp_path / "birds" / "cartoon").mkdir(parents=True)
    for number in range(10):
        Image.fromarray(photograph(60, number)).save(tmp_path / "birds" / f"{number}.png")
    Image.fromarray(photograph(60, 3)).save(tmp_path / "birds" / "again.png")
    Image.fromarray(photograph(60, 11)).save(tmp_path / "birds" / "1_mirror.png")
    Image.fromarray(photograph(60, 12)).save(tmp_path / "birds" / "cartoon" / "duck.png")
    found = composites.read(tmp_path, grounds, None)
    assert found.names == tuple(f"birds/{number}" for number in range(10))


def test_too_few(tmp_path: Path, grounds: Path) -> None:
    with pytest.raises(ValueError, match=r"needs 10 cut-outs and 5 grounds, got 0 that can be used in .* and 6 in"):
        composites.read(tmp_path, grounds, None)


def package(folder: Path, content: dict[str, bytes]) -> Package:
    """A Debian package with these files."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": lzma.compress(tar.getvalue())}
    whole = b"!<arch>\n"
    for name, data in members.items():
        whole += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    folder.mkdir(exist_ok=True)
    (folder / "some_1_all.deb").write_bytes(whole)
    return Package("some", "s/some/some_1_all.deb", len(whole), hashlib.sha256(whole).hexdigest(), "usr/share/some")


def test_packages(tmp_path: Path) -> None:
    files = {"usr/share/some/a/b.png": b"picture", "usr/share/other/c": b"", "usr/share/some/../../../d": b"evil"}
    found = package(tmp_path / "cache", files)
    folder = packages.fetched(found, tmp_path / "cache", lambda _: None)
    assert [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()] == ["a/b.png"]
    assert (folder / "a" / "b.png").read_bytes() == b"picture"
    assert packages.fetched(found, tmp_path / "cache", lambda _: None) == folder
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["b.png"]


def test_another_package(tmp_path: Path) -> None:
    found = package(tmp_path, {})._replace(sha256="0" * 64)
    with pytest.raises(ValueError, match=r"some_1_all\.deb must have the sha256 0000000000000000…, got"):
        packages.fetched(found, tmp_path, lambda _: None)


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(packages.urllib.request, "urlopen", unreachable)
    with pytest.raises(ConnectionError, match="apt-get download tuxpaint-stamps-default") as problem:
        packages.fetched(packages.STAMPS, tmp_path, lambda _: None)
    assert f"put {packages.STAMPS.file} into {tmp_path}" in str(problem.value)
    assert not list(tmp_path.iterdir())
