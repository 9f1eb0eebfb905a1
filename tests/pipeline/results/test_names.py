"""File names after keys: distinct on every file system, and real ones take them."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tsm_fast.pipeline.results.names import FileNames

KEYS = (
    *("cats/1.jpg", "cats/1.png", "cats/1.JPG", "Cats/1.jpg", "cats/1", "cats/1.jpg/inner.jpg", "cats"),
    *("../../etc/passwd", "/etc/passwd", "etc/passwd", "./a.jpg", "a.jpg", ".", "..", "/", "a//b.jpg", ".hidden.jpg"),
    *("s3://box/a b.jpg", "s3:/box/a b.jpg", "CON", "nul.jpg", "com1.txt/x.jpg", "dot./x.jpg", "space /x.jpg"),
    *("two\nlines.jpg", "bell\x07.jpg", "<img src=x>.jpg", 'q"u*o?t|e.jpg', "back\\slash.jpg", "latin-\\xe9.jpg"),
    *("café.jpg", unicodedata.normalize("NFD", "café.jpg"), "CAFÉ.jpg", "straße.jpg", "STRASSE.jpg", "\u202eevil.jpg"),
    *(
        "x" * 300 + ".jpg",
        "x" * 301 + ".jpg",
        "ü" * 200 + ".jpg",
        "/".join(["folder"] * 100) + "/a.jpg",
        "~.jpg",
        "a~.jpg",
    ),
)


def folded(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold())


def check(keys: list[str]) -> dict[str, str]:
    names = FileNames(".jpg")
    found = {key: names.of(key) for key in keys}
    again = FileNames(".jpg")
    assert [again.of(key) for key in keys] == list(found.values())
    files = {folded(path) for path in found.values()}
    assert len(files) == len(found)
    folders = {folded(str(above)) for path in found.values() for above in Path(path).parents} - {"."}
    assert not files & folders
    for path in found.values():
        assert path.lower().endswith(".jpg")
        assert len(path.encode()) <= 400
        for part in path.split("/"):
            assert part not in ("", ".", "..")
            assert not part.startswith(".")
            assert not part.endswith((".", " "))
            assert not set(part) & set('<>:"\\|?*\n\x07\u202e')
            assert len(part.encode()) <= 255
    return found


def test_names(tmp_path: Path) -> None:
    found = check(list(dict.fromkeys(KEYS)))
    assert found["cats/1.jpg"] == "cats/1.jpg"
    assert found["cats/1.png"] == "cats/1.png.jpg"
    assert found["a.jpg"] == "a.jpg"
    assert found["café.jpg"] == "café.jpg"
    assert found["cats/1.JPG"].startswith("cats/1~")
    assert found["cats/1.jpg/inner.jpg"].startswith("inner~")
    assert found["CON"] == "_CON.jpg"
    for key, path in found.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("x").write(key)
    assert {key: (tmp_path / path).read_text() for key, path in found.items()} == {key: key for key in found}


part = st.text(st.sampled_from("aAbéE\u0301. ~/\\:jpgJPG\x00ßs"), max_size=8)


@given(
    st.lists(
        st.one_of(part, st.text(max_size=5).filter(str.isprintable), part.map(lambda text: text + ".jpg")), unique=True
    )
)
def test_any_names(keys: list[str]) -> None:
    check(keys)


def test_names_do_not_depend_on_what_comes_later() -> None:
    keys = list(dict.fromkeys(KEYS))
    whole, half = FileNames(".png"), FileNames(".png")
    assert [whole.of(key) for key in keys][:20] == [half.of(key) for key in keys[:20]]
