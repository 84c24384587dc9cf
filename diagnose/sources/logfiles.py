"""Reading logs that lie there: files, folders, packed files, bundles, standard input."""

from __future__ import annotations

import io
import os
import stat
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from diagnose.errors import InputError
from diagnose.model.observation import LogLines, Stream
from diagnose.sources.blocks import (
    CutShortError,
    Limits,
    Unpacked,
    UnpackError,
    looks_like_text,
    read_blocks,
    transcoded,
    unpacked,
    whole_lines,
)
from diagnose.sources.folders import looks_like_log_name

_SNIFF = 8192
_TAR = (".tar", ".tar.gz", ".tgz")
_NO_FOLDERS = {"__pycache__", "node_modules", "site-packages"}

Open = Callable[[], BinaryIO]


class LogFile:
    """One log, read by `chunks` when it is its turn.

    Attributes:
        name: As people know it: relative to the folder or bundle that was named.
        size: Bytes on disk, packed where it is packed; 0 where nobody knows (a pipe).
        mtime: Its last change (aware, UTC).
    """

    def __init__(self, owner: LogFiles, open_: Open, *, name: str, size: int, mtime: float, named: bool) -> None:
        self.name, self.size = name, size
        self.mtime = datetime.fromtimestamp(mtime, timezone.utc)
        self.stream: Stream = owner.stream_of(_unpacked_name(name))
        self._owner, self._open, self._named = owner, open_, named

    def chunks(self) -> Iterator[LogLines]:
        """Yield its lines, about 256 KiB at a time, in constant memory.

        Of a line longer than 1 MiB only the head is kept. A packed file that ends too early gives
        what it has, and an entry in `LogFiles.skipped`.

        Raises:
            InputError: It cannot be read, and a person named it; else `LogFiles.skipped` tells.
        """
        try:
            with closing(self._open()) as file:
                blocks = transcoded(unpacked(read_blocks(file), self._owner.limits))
                for number, data in whole_lines(_until_damage(blocks, self._note)):
                    yield LogLines(
                        target=self._owner.target,
                        source=self.name,
                        stream=self.stream,
                        first_line=number,
                        data=data,
                        read_at=self.mtime,
                    )
        except (OSError, UnpackError, tarfile.TarError) as error:
            if self._named:
                raise InputError(_sentence(self.name, error)) from error
            self._note(_reason(error))

    def _note(self, reason: str) -> None:
        self._owner.skipped.append((self.name, reason))


class LogFiles:
    """All logs behind the paths that a person named, oldest first.

    Attributes:
        skipped: What could not be read and why, by name; grows while logs are read.
    """

    def __init__(
        self,
        *,
        target: str,
        stream_of: Callable[[str], Stream],
        is_log: Callable[[str], bool],
        stdin: BinaryIO | None,
        limits: Limits,
    ) -> None:
        self.target, self.stream_of, self.limits = target, stream_of, limits
        self.skipped: list[tuple[str, str]] = []
        self._is_log, self._stdin = is_log, stdin
        self._found: dict[object, LogFile] = {}

    def __iter__(self) -> Iterator[LogFile]:
        """Yield by last change, then by name."""
        return iter(sorted(self._found.values(), key=lambda file: (file.mtime, file.name)))

    def __len__(self) -> int:
        return len(self._found)

    @property
    def size(self) -> int:
        """Bytes of all files, as they lie there."""
        return sum(file.size for file in self._found.values())

    def add(self, path: str, *, alone: bool) -> None:
        """Take up what a person named. ``alone``: names need not say which path they come from.

        Raises:
            InputError: There is nothing to read; with the cure.
        """
        if path == "-":
            self._add_stdin()
            return
        try:
            status = Path(path).stat()
            if stat.S_ISDIR(status.st_mode):
                self._add_folder(path, prefix="" if alone else path.rstrip("/") + "/")
            elif stat.S_ISREG(status.st_mode) or stat.S_ISFIFO(status.st_mode):
                self._add_named_file(path, status, alone=alone)
            else:
                raise InputError(f"{path} is neither a file nor a folder. Name a log file or its folder.")
        except (OSError, UnpackError, tarfile.TarError) as error:
            raise InputError(_sentence(path, error)) from error

    def _add_stdin(self) -> None:
        stream = self._stdin or sys.stdin.buffer
        try:
            mtime = os.fstat(stream.fileno()).st_mtime
        except (OSError, io.UnsupportedOperation):
            mtime = datetime.now(timezone.utc).timestamp()
        file = LogFile(self, lambda: cast("BinaryIO", _Borrowed(stream)), name="-", size=0, mtime=mtime, named=True)
        self._found["-"] = file

    def _add_named_file(self, path: str, status: os.stat_result, *, alone: bool) -> None:
        if path.endswith(_TAR) and stat.S_ISREG(status.st_mode):
            self._add_bundle(path, prefix="" if alone else path + "/")
            return
        if stat.S_ISREG(status.st_mode):
            if not looks_like_text(self._sniff(_opener(path))):
                raise InputError(f"{path} holds no text. Name a log file, a folder of logs, a .gz or a .tar.gz.")
        elif not os.access(path, os.R_OK):
            raise PermissionError(13, os.strerror(13), path)
        self._add(path, path, status, named=True)

    def _add_folder(self, folder: str, *, prefix: str) -> None:
        before = len(self._found), len(self.skipped)
        for path in self._walk(folder):
            name = prefix + os.path.relpath(path, folder)
            try:
                status = Path(path).stat()
                if stat.S_ISREG(status.st_mode) and self._counts(name, _opener(path)):
                    self._add(path, name, status, named=False)
            except FileNotFoundError:
                continue  # a link that leads nowhere, or a log that has just been removed
            except (OSError, UnpackError) as error:
                self.skipped.append((name, _reason(error)))
        if (len(self._found), len(self.skipped)) == before:
            raise InputError(
                f"{folder} holds no log. Name the log folder of the server (FD_LOG_DIR, by default log/), or a file."
            )
        if len(self._found) == before[0]:
            name, reason = self.skipped[-1]
            raise InputError(f"{folder} holds no log that can be read ({name}: {reason}). Check its rights.")

    def _walk(self, folder: str) -> Iterator[str]:
        def unreadable(error: OSError) -> None:
            if error.filename == folder:
                raise error
            self.skipped.append((os.path.relpath(error.filename, folder), _reason(error)))

        for place, folders, names in os.walk(folder, onerror=unreadable):
            folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _NO_FOLDERS)
            yield from (os.path.join(place, name) for name in sorted(names))  # noqa: PTH118 - os.walk gives strings

    def _counts(self, name: str, open_: Open) -> bool:
        """Tell whether a file that nobody named is a log: known, or by its name and first bytes."""
        plain = _unpacked_name(name)
        known = self._is_log(plain)
        return (known or looks_like_log_name(PurePosixPath(plain).name)) and looks_like_text(self._sniff(open_))

    def _sniff(self, open_: Open) -> bytes:
        with closing(open_()) as file:
            blocks = transcoded(unpacked(iter(lambda: file.read(_SNIFF), b""), self.limits))
            try:
                return next(blocks, b"")[:_SNIFF]
            except CutShortError:
                return b""

    def _add(self, path: str, name: str, status: os.stat_result, *, named: bool) -> None:
        """Take up one file; of several names for one file the shortest stays."""
        key = (status.st_dev, status.st_ino)
        known = self._found.get(key)
        if known is None or (len(name), name) < (len(known.name), known.name):
            size = status.st_size
            self._found[key] = LogFile(self, _opener(path), name=name, size=size, mtime=status.st_mtime, named=named)

    def _add_bundle(self, path: str, *, prefix: str) -> None:
        """Take up the logs inside a bundle; nothing is written to disk."""
        before = len(self._found)
        with ExitStack() as stack:
            bundle = self._open_bundle(path, stack)
            try:
                for member in bundle:
                    self._add_member(path, bundle, member, prefix)
            except (UnpackError, tarfile.ReadError) as error:
                if len(self._found) == before:
                    raise
                self.skipped.append((path, f"{_reason(error)}: read as far as it goes"))
        if len(self._found) == before:
            raise InputError(f"{path} holds no log. Name a bundle that `diagnose bundle` has made, or a log file.")

    def _add_member(self, path: str, bundle: tarfile.TarFile, member: tarfile.TarInfo, prefix: str) -> None:
        name = prefix + member.name.removeprefix("./")
        part = bundle.extractfile(member) if member.isreg() else None
        if part is None or not self._counts(name, lambda: cast("BinaryIO", part)):
            return
        self._found[path, member.offset] = LogFile(
            self, lambda: self._open_member(path, member), name=name, size=member.size,
            mtime=member.mtime, named=False,
        )  # fmt: skip

    def _open_bundle(self, path: str, stack: ExitStack) -> tarfile.TarFile:
        unpacking = stack.enter_context(closing(Unpacked(_open(path), self.limits)))
        return stack.enter_context(tarfile.open(fileobj=io.BufferedReader(unpacking), mode="r:"))

    def _open_member(self, path: str, member: tarfile.TarInfo) -> BinaryIO:
        with ExitStack() as stack:
            part = self._open_bundle(path, stack).extractfile(member)
            if part is None:
                raise tarfile.ReadError(f"{member.name} is no file")
            return cast("BinaryIO", _Borrowed(cast("BinaryIO", part), stack.pop_all()))
        raise AssertionError  # an ExitStack without suppressing contexts returns or raises


def open_logs(
    paths: list[str] | tuple[str, ...],
    *,
    target: str,
    stream_of: Callable[[str], Stream],
    is_log: Callable[[str], bool],
    stdin: BinaryIO | None = None,
    limits: Limits | None = None,
) -> LogFiles:
    """Find the logs behind ``paths``: files, folders (with all below them), ``.gz``, bundles, ``-``.

    Args:
        paths: As a person typed them, at least one.
        stream_of: Tells the kind of a log from its name.
        is_log: Names that are logs for sure. What lies in a folder under another name counts if
            nothing in its name speaks against it and it looks like text.
        stdin: What ``-`` reads; standard input by default.

    Returns:
        The logs, oldest change first; ``skipped`` tells what could not be read.

    Raises:
        InputError: A path is missing, cannot be read, or holds no log.
    """
    found = LogFiles(target=target, stream_of=stream_of, is_log=is_log, stdin=stdin, limits=limits or Limits())
    for path in paths:
        found.add(path, alone=len(paths) == 1)
    return found


class _Borrowed(io.RawIOBase):
    """A stream that is not ours to close, and what is to be closed instead."""

    def __init__(self, stream: BinaryIO, owned: ExitStack | None = None) -> None:
        self._stream, self._owned = stream, owned

    def read(self, size: int = -1) -> bytes:
        read = getattr(self._stream, "read1", self._stream.read)  # what is there, without waiting for more
        return bytes(read(size))

    def close(self) -> None:
        if self._owned is not None:
            self._owned.close()
        super().close()


def _open(path: str) -> BinaryIO:
    return Path(path).open("rb", buffering=0)


def _opener(path: str) -> Open:
    return lambda: _open(path)


def _until_damage(blocks: Iterator[bytes], note: Callable[[str], None]) -> Iterator[bytes]:
    try:
        yield from blocks
    except CutShortError as error:
        note(f"{error}: read as far as it goes")


def _unpacked_name(name: str) -> str:
    return name.removesuffix(".gz")


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _sentence(path: str, error: Exception) -> str:
    """Say what is wrong with a path, and what helps."""
    if isinstance(error, FileNotFoundError):
        return f"{path} does not exist. Check the path; the server writes its logs to log/ where it was started."
    if isinstance(error, PermissionError):
        return f"{path} cannot be read: permission denied. Run as a user who may read it, or copy it."
    if isinstance(error, UnpackError):
        return f"{path} cannot be unpacked: it {error}. Unpack it yourself and name the result."
    return f"{path} cannot be read: {_reason(error)}. Check the path and the disk."
