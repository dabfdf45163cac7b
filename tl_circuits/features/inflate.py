"""Compressed data from elsewhere, taken out no further than a limit: some of it is made to fill a disk."""

import zlib
from pathlib import Path

from tl_circuits.errors import FileError

# zlib and gzip alike, told apart by how they begin.
_EITHER = 15 + 32
_PIECE = 2**13


def inflated(data: bytes, most: int, what: str) -> bytes:
    """What zlib or gzip packed. Raises `FileError` where it is more than `most` bytes, cut short or damaged."""
    found, unpacking, at = bytearray(), zlib.decompressobj(_EITHER), 0
    try:
        while at < len(data):
            if unpacking.eof:
                # A gzip file may have several parts.
                unpacking = zlib.decompressobj(_EITHER)
            # In pieces, since what is left of each is copied where a part ends: there may be a million parts.
            piece = data[at : at + _PIECE]
            found += unpacking.decompress(piece, most + 1 - len(found))
            at += len(piece) - len(unpacking.unused_data)
            if len(found) > most:
                raise FileError(
                    f"{what} unpacks from {len(data):,} bytes to over {most:,}, more than such a file holds: it is "
                    "damaged, or made to fill memory. Ask who wrote it."
                )
    except zlib.error as error:
        raise FileError(f"{what} is not compressed as it should be ({error}): fetch it again.") from error
    if data and not unpacking.eof:
        raise FileError(f"{what} is cut short after {len(data):,} bytes: fetch it again.")
    return bytes(found)


def content(path: Path, most: int) -> bytes:
    """What a file holds, unpacked where it is gzip. Raises `FileError` beyond `most` bytes, packed or not."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise FileError(f"'{path}' cannot be read ({error.strerror}): give a file of cards.") from error
    if len(data) > most:
        raise FileError(f"'{path}' is larger than {most:,} bytes: split it, and read the parts.")
    return inflated(data, most, f"'{path}'") if data[:2] == b"\x1f\x8b" else data
