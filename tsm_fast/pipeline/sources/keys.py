"""Keys as text that Parquet can hold: file names of any bytes, written so that the bytes can be had back."""

from __future__ import annotations

import re

_ESCAPE = re.compile(r"\\x[89a-f][0-9a-f]")
_PART = re.compile(r"\\x([89a-f][0-9a-f])|\\\\")


def encode_key(name: str) -> str:
    r"""A file name as valid text: bytes that are not UTF-8 become `\xNN`, and then every backslash is doubled.

    Names of valid text stay as they are, unless they hold such an escape literally. `decode_key` is the inverse.

    >>> import os
    >>> encode_key("café/1.jpg"), encode_key(os.fsdecode(b"caf\xe9.jpg"))
    ('café/1.jpg', 'caf\\xe9.jpg')
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        pass
    else:
        if not _ESCAPE.search(name):
            return name
    return "".join(map(_encoded, name))


def decode_key(key: str) -> str:
    r"""The file name, for `open`, of what `encode_key` wrote.

    >>> import os
    >>> os.fsencode(decode_key(r"caf\xe9.jpg"))
    b'caf\xe9.jpg'
    """
    if not _ESCAPE.search(key):
        return key
    return _PART.sub(lambda found: chr(0xDC00 + int(found[1], 16)) if found[1] else "\\", key)


def _encoded(character: str) -> str:
    if character == "\\":
        return "\\\\"
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # a byte that did not decode (PEP 383)
        return f"\\x{number - 0xDC00:02x}"
    if 0xD800 <= number <= 0xDFFF:
        raise ValueError(f"keys must be text or file names, got the lone surrogate U+{number:04X}")
    return character
