"""From the bytes of a file to whole lines: unpacked, transcoded, cut, in constant memory."""

from __future__ import annotations

import codecs
import io
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

BLOCK = 256 * 1024
LONGEST = 1024 * 1024
_GZIP = b"\x1f\x8b\x08"
_BINARY = (
    _GZIP, b"\x7fELF", b"PK\x03\x04", b"\x89PNG", b"SQLite format 3\0", b"\xfd7zXZ", b"BZh", b"\x28\xb5\x2f\xfd",
    b"\x93NUMPY", b"\x80\x04\x95", b"\xca\xfe\xba\xbe", b"%PDF", b"\xff\xd8\xff", b"GIF8",
)  # fmt: skip
_CONTROL = bytes(set(range(32)) - set(b"\0\a\b\t\n\v\f\r\x1b"))
_MOST_CONTROL = 0.03


class UnpackError(Exception):
    """Packed data cannot be unpacked, or would become far too much."""


class CutShortError(UnpackError):
    """Packed data ends too early; what was there was given out."""


class Limits(NamedTuple):
    """How much packed data may become.

    Attributes:
        ratio: Unpacked bytes for one packed; counts beyond ``free_bytes``.
        free_bytes: Unpacked bytes that are fine at any ratio.
        total_bytes: Unpacked bytes of one file.
    """

    ratio: int = 300
    free_bytes: int = 256 * 1024 * 1024
    total_bytes: int = 64 * 1024**3


def looks_like_text(beginning: bytes) -> bool:
    r"""Judge by the first bytes; zero bytes say nothing, logs have holes.

    >>> looks_like_text(b"Traceback (most recent call last):\n"), looks_like_text(b"\x7fELF\x02\x01\x01")
    (True, False)
    """
    if beginning.startswith(_BINARY):
        return False
    text = beginning.replace(b"\0", b"")
    control = len(text) - len(text.translate(None, _CONTROL))
    return control <= _MOST_CONTROL * len(text)


def read_blocks(file: BinaryIO) -> Iterator[bytes]:
    """Yield all bytes in blocks; a pipe gives what it has, at most `BLOCK`."""
    while block := file.read(BLOCK):
        yield block


def unpacked(blocks: Iterable[bytes], limits: Limits) -> Iterator[bytes]:
    """Unpack gzip (with all its members) where the first bytes say so, else pass all on.

    Raises:
        UnpackError: Damaged, or too much. `CutShortError`: it ends too early.
    """
    rest = iter(blocks)
    first = _at_least(rest, len(_GZIP))
    blocks = _chain(first, rest)
    return _gunzip(blocks, limits) if first.startswith(_GZIP) else blocks


def _gunzip(blocks: Iterator[bytes], limits: Limits) -> Iterator[bytes]:
    took = gave = 0
    member = zlib.decompressobj(wbits=31)
    begun = False
    for block in blocks:
        took += len(block)
        data = block
        while data:
            if member.eof:
                data = data.lstrip(b"\0")  # padding between or behind the members
                if not data:
                    break
                if not data.startswith(_GZIP[: len(data)]):
                    return  # what follows is no gzip: as gzip itself, leave it
                member = zlib.decompressobj(wbits=31)
                begun = False
                continue
            try:
                out = member.decompress(data, BLOCK)
            except zlib.error as error:
                raise UnpackError(f"damaged: {error}") from error
            begun = True
            gave += len(out)
            if gave > limits.total_bytes or (gave > limits.free_bytes and gave > limits.ratio * took):
                raise UnpackError(f"unpacks to more than {gave >> 20} MiB from {took} bytes")
            if out:
                yield out
            data = member.unused_data if member.eof else member.unconsumed_tail
    if begun and not member.eof:
        yield member.flush()
        raise CutShortError("ends too early")


def transcoded(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Turn UTF-16 with its mark (redirected output on Windows) into UTF-8; drop the mark of UTF-8."""
    rest = iter(blocks)
    first = _at_least(rest, len(codecs.BOM_UTF8))
    if first.startswith(codecs.BOM_UTF8):
        yield from _chain(first[len(codecs.BOM_UTF8) :], rest)
    elif first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        decode = codecs.getincrementaldecoder("utf-16")(errors="replace").decode
        for block in _chain(first, rest):
            yield decode(block).encode(errors="replace")
        yield decode(b"", final=True).encode(errors="replace")
    else:
        yield from _chain(first, rest)


def whole_lines(blocks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield whole lines and the number of the first one, about a block at a time.

    Of a line longer than 1 MiB the head is kept and the tail skipped. Zero bytes (holes) are no
    text and are left out. Only the very last line may lack its newline.
    """
    number, rest, skipping = 1, b"", False
    for raw in blocks:
        block = raw.replace(b"\0", b"") if b"\0" in raw else raw
        first = block.find(b"\n") + 1
        if skipping:
            if not first:
                continue
            block, skipping = block[first:], False
            first = block.find(b"\n") + 1
        if len(rest) + (first or len(block)) > LONGEST:
            yield number, (rest + block[:LONGEST])[: LONGEST - 1] + b"\n"
            number += 1
            rest, block, skipping = b"", block[first:] if first else b"", not first
        end = block.rfind(b"\n") + 1
        if end:
            data = rest + block[:end] if rest else block[:end]
            yield number, data
            number += data.count(b"\n")
            rest = block[end:]
        else:
            rest += block
    if rest:
        yield number, rest


def _at_least(blocks: Iterator[bytes], count: int) -> bytes:
    data = b""
    while len(data) < count and (block := next(blocks, b"")):
        data += block
    return data


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest


class Unpacked(io.RawIOBase):
    """A packed file as one that can be read and sought; going back begins anew."""

    def __init__(self, file: BinaryIO, limits: Limits) -> None:
        self._file, self._limits = file, limits
        self._begin()

    def _begin(self) -> None:
        self._file.seek(0)
        self._blocks = unpacked(read_blocks(self._file), self._limits)
        self._ready, self._place = b"", 0

    def close(self) -> None:
        """Close the packed file too."""
        self._file.close()
        super().close()

    def readable(self) -> bool:  # noqa: D102 - as in io
        return True

    def seekable(self) -> bool:  # noqa: D102 - as in io
        return True

    def tell(self) -> int:  # noqa: D102 - as in io
        return self._place

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place counted from the start; backwards costs unpacking from the start."""
        if whence != io.SEEK_SET:
            raise io.UnsupportedOperation("only from the start")
        if place < self._place:
            self._begin()
        while self._place < place and self.read(min(BLOCK, place - self._place)):
            pass
        return self._place

    def read(self, size: int = -1) -> bytes:
        """Read up to ``size`` bytes, fewer at the end of a block; with -1 everything."""
        if size < 0:
            return b"".join(read_blocks(self))  # type: ignore[arg-type]
        if not self._ready:
            self._ready = next(self._blocks, b"")
        data, self._ready = self._ready[:size], self._ready[size:]
        self._place += len(data)
        return data

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read into ``buffer``."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
