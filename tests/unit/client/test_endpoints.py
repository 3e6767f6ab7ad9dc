"""Endpoints: one spelling for one socket, on both sides."""

from __future__ import annotations

import os

import pytest

from arrayd.common import endpoints
from arrayd.system import launch
from arrayd_server.config import Config


@pytest.mark.parametrize("path", ["/a/sock", "//a/sock", "/a/./b/../sock", "a/sock"])
def test_a_path_has_one_spelling(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Double slashes, ``..`` and the working directory make no other endpoint."""
    monkeypatch.setattr(os, "getcwd", lambda: "/")
    assert endpoints.normalize(path) == "ipc:///a/sock"


@pytest.mark.parametrize("text", ["/a/sock", "ipc:///a/sock", "ipc:////a/./b/../sock"])
def test_client_and_daemon_take_the_same_words(text: str) -> None:
    """A bare path is an endpoint to both."""
    assert launch.normalize(text) == "ipc:///a/sock"
    assert Config.load(["--endpoint", text]).endpoint == "ipc:///a/sock"


def test_the_length_is_that_of_the_path_in_bytes() -> None:
    """The kernel counts bytes, without the scheme."""
    assert endpoints.path_bytes("ipc:///é") == 3


@pytest.mark.parametrize(
    ("runtime", "directory"), [("/run/user/7", "/run/user/7/arrayd"), ("", None)]
)
def test_the_private_directory(
    runtime: str, directory: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lies in the user's runtime directory, or in /tmp under the uid."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    expected = directory or f"/tmp/arrayd-{os.getuid()}"
    assert endpoints.private_directory() == expected
    assert endpoints.private_socket() == f"{expected}/sock"
