"""Values that the kernel copies from the file to the segment, and where it cannot."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arrayd.errors import BadFile
from arrayd_server.loaders.formats import probe
from tests.support.loading import (
    Make,
    as_npy,
    as_raw,
    free,
    load,
    make_segment,
    make_tiny,
    same,
    target_of,
    write,
)

tiny = pytest.fixture(autouse=True)(make_tiny)
segment = pytest.fixture(make_segment)


@pytest.mark.parametrize("make", [as_npy, as_raw])
@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_sendfile(
    make: Make, tmp_path: Path, segment: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Where the kernel cannot copy from a file it is read; the result is the same."""

    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    array = np.arange(300).reshape(30, 10)
    source = make(tmp_path, array)
    same(load(source, segment), array)
    monkeypatch.setattr(os, "sendfile", refuse)
    same(load(source, segment), array)


def test_a_disk_that_fails_while_the_kernel_copies(
    tmp_path: Path, segment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error amid the file is that of the file, and nothing else is tried."""
    source = as_npy(tmp_path, np.arange(99))
    plan = probe(source)
    send, calls = os.sendfile, iter(range(9))

    def fail_late(*args: Any) -> int:
        if next(calls):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return send(*args)

    monkeypatch.setattr(os, "sendfile", fail_late)
    with pytest.raises(BadFile, match=r"a\.npy.*Input/output error"):
        write(source, plan, plan.parts[0], target_of(source, plan, segment))
    assert free(segment)
