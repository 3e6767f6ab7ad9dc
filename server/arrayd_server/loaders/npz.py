"""``.npz`` archives: stored members are read in place, compressed ones through zipfile.

A stored member is a ``.npy`` inside a file and is read in parallel parts like one, so its
checksum, which covers the whole, is not computed (a ``.npy`` has none either). A compressed
member is one stream: one part, in bounded memory, checksum included.
"""

from __future__ import annotations

import os
import struct
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from io import FileIO

import numpy as np

from arrayd.errors import ArraydError, BadFile
from arrayd.source import Source
from arrayd_server.loaders import base, contiguous, npy
from arrayd_server.loaders.base import Chunks, FoundMember, LoadPlan, Part
from arrayd_server.loaders.contiguous import Selection
from arrayd_server.loaders.validation import (
    check_dtype,
    check_options,
    no_member,
    only_member,
    open_regular,
)

BACKWARD_BYTES = 64 << 20
"""Chunk for a negative step in a compressed member: each one inflates it from its start."""

TAIL_BYTES = 16 << 20
"""What may lie behind an array and still be inflated for the checksum: a bomb has no end."""

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of the name and the extra field


def probe(source: Source) -> LoadPlan:
    """Return the plan of one member of an ``.npz``.

    Raises
    ------
    SourceNotFound
        No such member.
    SpecMismatch
        Several members and none named; objects; another dtype than claimed.
    BadFile
        No zip archive, no ``.npy`` in it, or a truncated one.
    """
    check_options(source)
    with open_regular(source.path) as file, _archive(source, file) as archive:
        info = _find(source, archive)
        member = info.filename.removesuffix(".npy")
        with _stream(source, archive, info) as stream:
            shape, order, dtype = npy.read_header(stream, source)
            offset = stream.tell()
        dtype = check_dtype(source, dtype)
        size = offset + contiguous.check_size(source, shape, dtype)
        npy.check_complete(source, size, info.file_size)
        if info.compress_type != zipfile.ZIP_STORED:
            plan = contiguous.plan(
                source, shape, dtype, order=order, offset=offset, part_bytes=sys.maxsize
            )
            selection = Selection(*plan.detail)._replace(zipped=info.filename)
            return replace(plan, detail=selection, member=member)
        begin = _data_offset(source, file, info)
        plan = contiguous.plan(source, shape, dtype, order=order, offset=begin + offset)
        npy.check_complete(source, begin + size, os.fstat(file.fileno()).st_size)
    return replace(plan, member=member)


def fill(source: Source, plan: LoadPlan, part: Part) -> Chunks:
    """Yield the values of `part`, in 1-d chunks of storage order.

    Raises
    ------
    BadFile
        The member does not inflate, or its checksum is wrong.
    SourceChanged
        The file has become shorter since `plan` was made.
    """
    zipped = Selection(*plan.detail).zipped
    return _inflated(source, plan, part) if zipped else contiguous.fill(source, plan, part)


address = contiguous.address


def members(source: Source) -> list[FoundMember]:
    """Return name, shape and dtype of each ``.npy`` in the archive, in its order."""
    check_options(source)
    with open_regular(source.path) as file, _archive(source, file) as archive:
        return [_member(source, archive, name) for name in _names(archive)[: base.MAX_MEMBERS]]


def _member(source: Source, archive: zipfile.ZipFile, name: str) -> FoundMember:
    where = Source(source.path, name)
    shape: tuple[int, ...] = ()
    dtype = np.dtype(object)
    try:
        with _stream(where, archive, archive.getinfo(f"{name}.npy")) as stream:
            shape, _, dtype = npy.read_header(stream, where)
        check_dtype(where, dtype)
    except ArraydError as error:
        return FoundMember(name, shape, dtype, error.message.removeprefix(str(where)).lstrip(": "))
    return FoundMember(name, shape, dtype)


def _names(archive: zipfile.ZipFile) -> list[str]:
    unique = dict.fromkeys(archive.namelist())
    return [name.removesuffix(".npy") for name in unique if name.endswith(".npy")]


def _find(source: Source, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    names = _names(archive)
    member = only_member(source, names, "member") if source.member is None else source.member
    for name in (member, f"{member}.npy"):
        if name in archive.NameToInfo:
            return archive.NameToInfo[name]
    raise no_member(source, names, "member")


@contextmanager
def _decoding(source: Source) -> Iterator[None]:
    """Say BadFile for what zipfile raises, or a decoder of its: each has its own classes."""
    try:
        yield
    except (ArraydError, OSError, MemoryError):
        raise
    except Exception as error:
        raise BadFile(
            f"{source} is corrupt, or no .npz: {error or type(error).__name__}."
        ) from None


def _archive(source: Source, file: FileIO) -> zipfile.ZipFile:
    with _decoding(source):
        return zipfile.ZipFile(file)


def _stream(
    source: Source, archive: zipfile.ZipFile, info: zipfile.ZipInfo | str
) -> zipfile.ZipExtFile:
    with _decoding(source):
        stream = archive.open(info)
        assert isinstance(stream, zipfile.ZipExtFile)
        return stream


def _data_offset(source: Source, file: FileIO, info: zipfile.ZipInfo) -> int:
    """Return where the bytes of a stored member begin (APPNOTE.TXT 4.3.7: the local header).

    The central directory does not tell: the extra field may differ in length from its own.
    """
    header = os.pread(file.fileno(), _LOCAL_HEADER.size, info.header_offset)
    with _decoding(source):
        _, name, extra = _LOCAL_HEADER.unpack(header)
    return int(info.header_offset + _LOCAL_HEADER.size + name + extra)


def _inflated(source: Source, plan: LoadPlan, part: Part) -> Chunks:
    selection = Selection(*plan.detail)
    with (
        open_regular(source.path) as file,
        _archive(source, file) as archive,
        _stream(source, archive, selection.zipped) as stream,
    ):
        chunk_bytes = BACKWARD_BYTES if selection.step < 0 else base.CHUNK_BYTES
        yield from contiguous.walk(partial(_read, source, stream), plan, part, chunk_bytes)
        rest = archive.getinfo(selection.zipped).file_size - stream.tell()
        if source.rows is None and rest <= TAIL_BYTES:
            _check_rest(source, stream)


def _read(source: Source, stream: zipfile.ZipExtFile, buffer: memoryview, position: int) -> None:
    done = 0
    with _decoding(source):
        if stream.tell() != position:
            stream.seek(position)
        while done < len(buffer):
            got = stream.readinto(buffer[done:])
            if not got:
                raise EOFError(f"the member ends at byte {position + done}")
            done += got


def _check_rest(source: Source, stream: zipfile.ZipExtFile) -> None:
    """Read to the end, where zipfile compares the checksum."""
    with _decoding(source):
        while stream.read(base.CHUNK_BYTES):
            pass
