"""Every kind of source: what it lists, in which order, and what it says when it cannot."""

from __future__ import annotations

import errno
import io
import os
import random
import shutil
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tsm_fast.pictures.decode import ImageError, Picture, from_value, unreadable
from tsm_fast.pipeline import Settings, prepare
from tsm_fast.pipeline.sources.datasets import DatasetSource, picture_of
from tsm_fast.pipeline.sources.keys import encode_key
from tsm_fast.pipeline.sources.open import open_source, reopen
from tsm_fast.pipeline.sources.source import Item, Source, SourceError, listing

Photos = dict[str, Image.Image]


def keys(source: Source, limit: int | None = None) -> list[str]:
    return [item.key for item in listing(source)[:limit]]


def bytes_of(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def test_folder(folder: Path, photos: Photos) -> None:
    source = open_source(str(folder))
    found = keys(source)
    expected = [f"upright/{name}.jpg" for name in photos] + [f"mirrored/png/{name}.png" for name in photos]
    assert found == sorted(expected)
    assert keys(source, 3) == found[:3]
    again = reopen(source.kind, source.root)
    assert again.read(Item("upright/cat.jpg")) == (folder / "upright" / "cat.jpg").read_bytes()


def test_the_order_of_the_folder_does_not_matter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = keys(open_source(str(folder)))
    scandir = os.scandir

    class Shuffled(list[os.DirEntry[str]]):
        def __enter__(self) -> Shuffled:
            return self

        def __exit__(self, *_: object) -> None: ...

    def shuffled(path: str) -> Shuffled:
        with scandir(path) as entries:
            found = Shuffled(entries)
        random.Random(5).shuffle(found)
        return found

    monkeypatch.setattr(os, "scandir", shuffled)
    assert keys(open_source(str(folder))) == usual


def test_hostile_names(tmp_path: Path, photos: Photos) -> None:
    data = bytes_of(photos["cat"])
    names = [b"a b.png", b"two\nlines.png", b"caf\xe9.png", b"\\xe9.png", b"<img onerror=alert(1)>.png", b"'\"&.PNG"]
    for name in names:
        Path(os.path.join(tmp_path, os.fsdecode(name))).write_bytes(data + name)
    source = open_source(str(tmp_path))
    items = listing(source)
    assert {item.key for item in items} == {encode_key(os.fsdecode(name)) for name in names}
    read = reopen(source.kind, source.root).read
    assert {read(item) for item in items} == {data + name for name in names}


def test_a_folder_with_a_name_that_is_no_text(tmp_path: Path, photos: Photos) -> None:
    below = Path(os.path.join(tmp_path, os.fsdecode(b"f\xfclder")))
    below.mkdir()
    photos["cat"].save(below / "1.png")
    source = open_source(str(below))
    source.root.encode()
    assert reopen(source.kind, source.root).read(listing(source)[0]) == (below / "1.png").read_bytes()


def test_formats(tmp_path: Path, photos: Photos) -> None:
    for name, kind in (("a.AVIF", "AVIF"), ("b.jp2", "JPEG2000"), ("c.jfif", "JPEG"), ("d.webp", "WEBP")):
        (tmp_path / name).write_bytes(bytes_of(photos["cat"], kind))
    source = open_source(str(tmp_path))
    pictures = [from_value(source.read(item), 10**6) for item in listing(source)]
    assert [isinstance(picture, Picture) and picture.image.size for picture in pictures] == 4 * [photos["cat"].size]


def test_links(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "link").symlink_to(folder / "upright")
    (tmp_path / "one.png").symlink_to(folder / "mirrored" / "png" / "cat.png")
    assert len(keys(open_source(str(tmp_path)))) == 11


def test_links_that_loop_are_left_out_or_rows(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "upright").symlink_to(folder / "upright")
    (tmp_path / "back").symlink_to(tmp_path)
    for name in ("itself", "itself.png", "gone.png"):
        (tmp_path / name).symlink_to(tmp_path / name.replace("gone", "nothing"))
    source = open_source(str(tmp_path))
    items = listing(source)
    assert [item.key for item in items if "/" not in item.key] == ["gone.png", "itself.png"]
    for item in items[:2]:
        with pytest.raises(OSError, match=r"No such file|Too many levels") as caught:
            source.read(item)
        assert unreadable(caught.value).kind == "missing"
    assert source.left_out.counts == {"of another kind": 2, "linked back to a folder above": 1}
    assert str(source.left_out) == (
        "1 linked back to a folder above (such as 'back'), 2 of another kind (such as 'itself')"
    )


def test_folders_that_link_to_each_other(tmp_path: Path, folder: Path) -> None:
    """Twelve could be listed in 12! orders."""
    for one in range(12):
        (tmp_path / f"{one:02d}").mkdir()
        (tmp_path / f"{one:02d}" / "cat.jpg").symlink_to(folder / "upright" / "cat.jpg")
        for other in range(12):
            (tmp_path / f"{one:02d}" / f"to{other:02d}").symlink_to(tmp_path / f"{other:02d}")
    source = open_source(str(tmp_path))
    found = keys(source)
    assert {key for key in found if key.count("/") == 1} == {f"{one:02d}/cat.jpg" for one in range(12)}
    assert {f"{one:02d}/to{other:02d}/cat.jpg" for one in range(12) for other in range(12) if one != other} <= {*found}
    assert len(found) < 2 * 12 * 12
    assert source.left_out.counts["listed already, behind two links"] > 0
    assert keys(open_source(str(tmp_path))) == found


def test_a_list_without_one_file(tmp_path: Path, folder: Path) -> None:
    """Most likely its relative paths go from another folder."""
    (tmp_path / "list.txt").write_text("cat.jpg\ncoffee.jpg\n")
    settings = Settings(str(tmp_path / "list.txt"), size=(64, 64))
    with pytest.raises(SourceError, match=r"2 paths, and none of them exists in .*: root= names the folder"):
        prepare(settings, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    there = replace(settings, root=str(folder / "upright"))
    assert prepare(there, tmp_path / "out").n_items == 2


def test_a_path_with_a_nul_byte(tmp_path: Path) -> None:
    (tmp_path / "all.jsonl").write_text('{"path": "a\\u0000.png"}\n')
    source = open_source(str(tmp_path / "all.jsonl"))
    (item,) = listing(source)
    with pytest.raises(ImageError, match="NUL") as caught:
        source.read(item)
    assert caught.value.kind == "missing"


def test_a_folder_without_permission_is_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refusing(path: str) -> Any:
        if path.endswith("png/"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    source = open_source(str(folder))
    assert len(keys(source)) == 10
    assert source.left_out.counts == {"hidden": 1, "of another kind": 1, "that cannot be listed (Permission denied)": 1}
    assert "(such as 'mirrored/png/')" in str(source.left_out)
    monkeypatch.setattr(os, "scandir", lambda path: refusing("png/"))
    with pytest.raises(PermissionError):
        keys(open_source(str(folder)))


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(SourceError, match=r"holds no picture: no file below it ends in \.avif, \.bmp, \.gif"):
        keys(open_source(str(tmp_path)))
    (tmp_path / "000.tar").write_bytes(b"")
    with pytest.raises(SourceError, match=r"named as FOLDER/\*\.tar"):
        keys(open_source(str(tmp_path)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no/such/folder", "does not exist"),
        ("none.tar", r"'none\.tar' does not exist"),
        ("part-{0..2}.tar", r"no file 'part-0\.tar'"),
        ("no_such_module:factory", "no module 'no_such_module'"),
        ("none.py:factory", r"there is no file 'none\.py'"),
        ("os.path:nothing", "module 'os.path' has no function 'nothing'"),
    ],
)
def test_what_is_not_there(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=message):
        open_source(text)


def test_one_picture_is_no_source(folder: Path) -> None:
    with pytest.raises(SourceError, match="is one file: name its folder"):
        open_source(str(folder / "upright" / "cat.jpg"))


def test_list_file(tmp_path: Path, folder: Path) -> None:
    picture = (folder / "upright" / "cat.jpg").read_bytes()
    inside = tmp_path / "in"
    inside.mkdir()
    names = [b"b.jpg", b"in/caf\xe9.jpg", b"a b.jpg"]
    for name in names:
        Path(os.path.join(tmp_path, os.fsdecode(name))).write_bytes(picture)
    absolute = os.fsencode(folder / "upright" / "cat.jpg")
    (tmp_path / "lines.txt").write_bytes(b"\n".join([*names, absolute]) + b"\r\n\n")
    (tmp_path / "nul.lst").write_bytes(b"\0".join([*names, absolute]) + b"\0")
    expected = sorted(encode_key(os.fsdecode(name)) for name in [*names, absolute])
    for file in ("lines.txt", "nul.lst"):
        source = open_source(str(tmp_path / file))
        items = listing(source)
        assert [item.key for item in items] == expected
        assert {reopen(source.kind, source.root).read(item) for item in items} == {picture}
    for number, encoding in enumerate(("utf-8-sig", "utf-16")):  # as Windows writes them
        (tmp_path / f"{number}.txt").write_bytes("b.jpg\r\na b.jpg\r\n".encode(encoding))
        assert keys(open_source(str(tmp_path / f"{number}.txt"))) == ["a b.jpg", "b.jpg"]
    (tmp_path / "broken.txt").write_bytes(b"\xff\xfea")
    with pytest.raises(SourceError, match=r"broken\.txt' begins as UTF-16, but is none"):
        keys(open_source(str(tmp_path / "broken.txt")))
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(SourceError, match="lists no path"):
        keys(open_source(str(tmp_path / "empty.txt")))


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_manifest(kind: str, tmp_path: Path, folder: Path) -> None:
    file = tmp_path / f"manifest.{kind}"
    rows = [("dog, brown", "upright/coins.jpg"), ("cat", "upright/cat.jpg")]
    rows = [(key, str(folder / path)) for key, path in rows]
    if kind == "parquet":
        columns = {"label": [1, 2], "key": [row[0] for row in rows], "path": [row[1] for row in rows]}
        pq.write_table(pa.table(columns), file)
    else:
        separator = "," if kind == "csv" else "\t"
        lines = ["label,key,path".replace(",", separator)]
        lines += [separator.join(["0", f'"{key}"', path]) for key, path in rows]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    source = open_source(str(file))
    items = listing(source)
    assert [item.key for item in items] == ["cat", "dog, brown"]
    assert reopen(source.kind, source.root).read(items[0]) == (folder / "upright" / "cat.jpg").read_bytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,url\n1,x\n", r"must have a column 'path' \(or file_name, .*\), got label, url"),
        ("path\n", "has no row"),
        ("path,key\na.png,1\nb.png\n", "line 3 must have 2 fields, got 1"),
        ("path,key\na.png,1\n,2\n", "row 1 has no path"),
        ("path,key\na.png,\n", "row 0 has no key"),
        (
            "path,key\na.png,1\nb.png,1\n",
            r"must be distinct, got '1' twice \('a.png' and 'b.png'\); a column 'key'",
        ),
        ("path\na.png\na.png\n", "keys must be distinct, got 'a.png' twice; a column 'key'"),
        ('path\n"a.png\n', "is not csv"),
    ],
)
def test_broken_manifests(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(SourceError, match=message):
        keys(open_source(str(tmp_path / "m.csv")))


def test_a_manifest_that_is_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "m.parquet").write_text("path")
    with pytest.raises(SourceError, match="cannot be read"):
        keys(open_source(str(tmp_path / "m.parquet")))


def write_tars(folder: Path, photos: Photos) -> dict[str, bytes]:
    """Two webdataset shards: pictures with a label beside each; long names and names that are no text too."""
    written = {}
    for number, names in enumerate(
        (["0001.jpg", "0002.jpg", "long/" + 150 * "x" + ".png"], ["0001.jpg", "caf\udce9.png"])
    ):
        with tarfile.open(folder / f"part-{number:03d}.tar", "w", errors="surrogateescape") as tar:
            for name, image in zip(names, photos.values(), strict=False):
                data = bytes_of(image, "JPEG" if name.endswith("jpg") else "PNG")
                written[f"part-{number:03d}.tar/{encode_key(name)}"] = data
                for member, content in ((name, data), (name[:-3] + "cls", b"3")):
                    about = tarfile.TarInfo(member)
                    about.size = len(content)
                    tar.addfile(about, io.BytesIO(content))
    return written


def test_tars(tmp_path: Path, photos: Photos) -> None:
    written = write_tars(tmp_path, photos)
    for text in ("part-{000..001}.tar", "part-*.tar"):
        source = open_source(str(tmp_path / text))
        items = listing(source)
        assert [item.key for item in items] == sorted(written)
        again = reopen(source.kind, source.root)
        assert {item.key: again.read(item) for item in items} == written
    assert len(keys(open_source(str(tmp_path / "part-001.tar")))) == 2


def test_tars_that_end_early_or_are_damaged(tmp_path: Path, photos: Photos) -> None:
    """tarfile takes a header that is none, and the end of the file, for the end of the archive."""
    write_tars(tmp_path, photos)
    path = tmp_path / "part-000.tar"
    data = path.read_bytes()
    with tarfile.open(path) as tar:
        headers = [member.offset for member in tar][1:]
    assert headers
    for at in headers:
        for broken in (data[:at], data[:at] + b"x" + data[at + 1 :], data[: at + 100]):
            path.write_bytes(broken)
            with pytest.raises(SourceError, match=r"part-000\.tar' is no whole tar file"):
                keys(open_source(str(path)))


def test_sizes_that_no_file_has(tmp_path: Path) -> None:
    about = tarfile.TarInfo("a.png")
    about.size = 2**62
    (tmp_path / "big.tar").write_bytes(about.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    with pytest.raises(SourceError, match=r"big\.tar' is no whole tar file"):
        keys(open_source(str(tmp_path / "big.tar")))


def test_links_and_other_kinds_in_tars(tmp_path: Path, photos: Photos) -> None:
    """Hard links are pictures; what else is no regular file is counted."""
    data = bytes_of(photos["cat"])
    with tarfile.open(tmp_path / "l.tar", "w") as tar:
        for name, kind, target in (
            ("a.png", tarfile.REGTYPE, ""),
            ("hard.png", tarfile.LNKTYPE, "a.png"),
            ("harder.png", tarfile.LNKTYPE, "hard.png"),
            ("nowhere.png", tarfile.LNKTYPE, "b.png"),
            ("soft.png", tarfile.SYMTYPE, "a.png"),
            ("folder.png", tarfile.DIRTYPE, ""),
            ("blob", tarfile.REGTYPE, ""),
            ("hardest.png", tarfile.LNKTYPE, "blob"),
            ("pipe.png", tarfile.FIFOTYPE, ""),
            ("a.cls", tarfile.REGTYPE, ""),
            (".b.png", tarfile.REGTYPE, ""),
        ):
            about = tarfile.TarInfo(name)
            about.type, about.linkname = kind, target
            about.size = len(data) if kind == tarfile.REGTYPE else 0
            tar.addfile(about, io.BytesIO(data))
    source = open_source(str(tmp_path / "l.tar"))
    items = listing(source)
    assert [item.key for item in items] == [f"l.tar/{name}.png" for name in ("a", "hard", "harder", "hardest")]
    assert {reopen(source.kind, source.root).read(item) for item in items} == {data}
    assert source.left_out.counts == {
        "hard links to what is not there": 1,
        "symbolic links": 1,
        "that are no files": 1,
        "of another kind": 2,
        "hidden": 1,
    }


def with_a_hole(image: Image.Image) -> bytes:
    """A BMP file with blocks of zeros in its middle, which tar can leave out, and photo on both sides of them."""
    pixels = np.asarray(image.resize((256, 256))).copy()
    pixels[64:192] = 0
    return bytes_of(Image.fromarray(pixels), "BMP")


@pytest.mark.parametrize(
    "options", [["gnu"], ["posix", "--sparse-version=0.0"], ["posix", "--sparse-version=0.1"], ["posix"]], ids=" ".join
)
def test_sparse_members_of_tars(options: list[str], tmp_path: Path, photos: Photos) -> None:
    """What `tar --sparse` packs is read as it was, and not as the packed bytes with those of the next member."""
    tar = shutil.which("tar")
    if tar is None or "GNU tar" not in subprocess.run([tar, "--version"], capture_output=True, text=True).stdout:
        pytest.skip("needs GNU tar, which makes sparse members")
    written = {"a.bmp": with_a_hole(photos["cat"]), "long/" + 120 * "x" + ".bmp": with_a_hole(photos["coins"])}
    written["z.png"] = bytes_of(photos["rocket"])
    (tmp_path / "long").mkdir()
    for name, data in written.items():
        with open(tmp_path / name, "wb") as file:
            for start in range(0, len(data), 4096):
                block = data[start : start + 4096]
                file.seek(start)
                file.write(block if any(block) else b"")
            file.truncate(len(data))
    command = [tar, "--sparse", "--hole-detection=raw", f"--format={options[0]}", *options[1:]]
    command += ["-cf", "s.tar", *written]
    subprocess.run(command, cwd=tmp_path, check=True)
    with tarfile.open(tmp_path / "s.tar") as members:
        assert [member.issparse() for member in members] == [True, True, False]
    source = open_source(str(tmp_path / "s.tar"))
    items = listing(source)
    again = reopen(source.kind, source.root)
    assert {item.key: again.read(item) for item in items} == {f"s.tar/{name}": data for name, data in written.items()}
    whole = (tmp_path / "s.tar").read_bytes()
    with tarfile.open(tmp_path / "s.tar") as members:
        first = members.getmembers()[0]
    (tmp_path / "s.tar").write_bytes(whole[: first.offset_data + 1000])
    with pytest.raises(ImageError, match="the tar file ends within it") as caught:
        again.read(items[0])
    assert caught.value.kind == "truncated"


def test_a_sparse_member_of_absurd_size_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = tarfile.TarInfo("a.bmp")
    about.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "0,0"}
    about.pax_headers |= {"GNU.sparse.size": str(2**40), "GNU.sparse.numblocks": "1"}
    with tarfile.open(tmp_path / "s.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(about)
    source = open_source(str(tmp_path / "s.tar"))
    with pytest.raises(ImageError, match=f"{2**40} bytes are more than") as caught:
        source.read(listing(source)[0])
    assert caught.value.kind == "too_large"


def test_broken_tars(tmp_path: Path, photos: Photos) -> None:
    write_tars(tmp_path, photos)
    whole = (tmp_path / "part-000.tar").read_bytes()
    source = open_source(str(tmp_path / "part-000.tar"))
    last = max(listing(source), key=lambda item: item.offset)
    (tmp_path / "part-000.tar").write_bytes(whole[: last.offset + 100])
    with pytest.raises(ImageError, match="the tar file ends after 100 of its"):
        source.read(last)
    with pytest.raises(SourceError, match="no whole tar file"):
        keys(open_source(str(tmp_path / "part-000.tar")))
    (tmp_path / "text.tar").write_text("text")
    with pytest.raises(SourceError, match="no whole tar file"):
        keys(open_source(str(tmp_path / "text.tar")))
    (tmp_path / "x.tar.gz").write_text("text")
    with pytest.raises(SourceError, match="is compressed"):
        open_source(str(tmp_path / "x.tar.gz"))


def test_hugging_face(tmp_path: Path, photos: Photos, no_network: None) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra hf")
    data = {
        "label": [0, 1, -1],
        "photo": [bytes_of(photos[name]) for name in ("cat", "coins", "rocket")],
        "box": [{"x": 1}, {"x": 2}, {"x": 3}],
        "caption": ["a", None, "c"],
    }
    made = datasets.Dataset.from_dict(data).cast_column("photo", datasets.Image())
    made = made.cast_column("label", datasets.ClassLabel(names=["cat", "coins"]))
    made.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": made, "test": made.select([2])}).save_to_disk(tmp_path / "two")
    for text, expected in (("one", ["0", "1", "2"]), ("two#test", ["0"])):
        for prefix in ("", "hf:") if "#" not in text else ("hf:",):
            source = open_source(prefix + str(tmp_path / text))
            items = listing(source)
            assert [item.key for item in items] == expected
            last = reopen(source.kind, source.root).read(items[-1])
            assert last == data["photo"][2]
            known = source.carried(items)
            assert known is not None
            assert known.to_pydict() == {
                "label": data["label"][-len(items) :],
                "caption": data["caption"][-len(items) :],
            }
            assert known.schema.field("label").metadata == {b"names": b'["cat", "coins"]'}
            assert source.left_out.counts == {"columns of types that are not carried along": 1}
    with pytest.raises(SourceError, match=r"must name a split as .*two#SPLIT, one of train, test"):
        open_source(f"hf:{tmp_path / 'two'}")
    datasets.Dataset.from_dict({"label": [1]}).save_to_disk(tmp_path / "none")
    with pytest.raises(SourceError, match="has no column of images, got label"):
        open_source(f"hf:{tmp_path / 'none'}")


class Photographs(torch.utils.data.Dataset[Any]):
    """Items in every shape that a dataset may give a picture."""

    def __init__(self, image: Image.Image) -> None:
        pixels = np.asarray(image)
        self.given: list[Any] = [
            image,
            (image, 3),
            {"image": image, "label": 3},
            {"image": {"bytes": bytes_of(image), "path": None}},
            bytes_of(image),
            pixels,
            torch.from_numpy(pixels.copy()).permute(2, 0, 1),
            [pixels[..., :1]],
        ]

    def __len__(self) -> int:
        return len(self.given)

    def __getitem__(self, number: int) -> Any:
        return self.given[number]


def test_torch_dataset(photos: Photos) -> None:
    source = DatasetSource(Photographs(photos["cat"]))
    items = listing(source)
    assert [item.key for item in items] == list("01234567")
    pictures = [from_value(source.read(item), 10**6) for item in items]
    for picture in pictures[:-1]:
        assert isinstance(picture, Picture)
        np.testing.assert_array_equal(np.asarray(picture.image), np.asarray(photos["cat"]))
    grey = pictures[-1]
    assert isinstance(grey, Picture)
    np.testing.assert_array_equal(np.asarray(grey.image)[..., 2], np.asarray(photos["cat"])[..., 0])
    named = DatasetSource(Photographs(photos["cat"]), [f"k{9 - i}" for i in range(8)])
    assert listing(named)[0] == Item("k2", None, 7)


def test_a_factory_in_a_file(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "from pathlib import Path\n"
        "from tsm_fast.pipeline.sources.datasets import DatasetSource\n"
        f"paths = sorted(Path({str(folder / 'upright')!r}).glob('*.jpg'))[:3]\n"
        "def pictures(): return [path.read_bytes() for path in paths]\n"
        "def labelled(): return DatasetSource(pictures(), [p.stem for p in paths], columns={'label': [0, 1, 2]})\n"
    )
    monkeypatch.chdir(tmp_path)
    plain, labelled = open_source("mine.py:pictures"), open_source("mine.py:labelled")
    assert (keys(plain), keys(labelled)) == (["0", "1", "2"], ["astronaut", "cameraman", "cat"])
    assert labelled.root == f"{tmp_path}/mine.py:labelled"
    monkeypatch.chdir("/")
    again = reopen(labelled.kind, labelled.root)
    known = again.carried(listing(again))
    assert known is not None
    assert known.to_pydict() == {"label": [0, 1, 2]}


def test_what_is_no_dataset_or_no_picture() -> None:
    with pytest.raises(TypeError, match="must have a length and items by number, got int"):
        DatasetSource(3)
    with pytest.raises(ValueError, match="one for each of the 2 items, got 1"):
        DatasetSource([1, 2], ["a"])
    with pytest.raises(SourceError, match="is empty"):
        DatasetSource([]).items()
    with pytest.raises(SourceError, match="got 'a' twice"):
        listing(DatasetSource([1, 2], ["a", "a"]))
    with pytest.raises(ImageError, match=r"holds none of image, .* but x, y"):
        picture_of({"x": 1, "y": 2})
    with pytest.raises(SourceError, match="lives in the program that made it"):
        reopen("dataset", "Photographs")
    for value in (3, np.zeros((2, 2)), torch.zeros(2, 2), np.zeros((2, 2, 7), np.uint8)):
        with pytest.raises(ImageError) as caught:
            from_value(value, 100)
        assert caught.value.kind == "item"
