"""The daemon as a program: read the options, take the scope, serve."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import os
import socket
import sys

from arrayd.errors import ArraydError
from arrayd_server import logs, systemd
from arrayd_server.config import Config
from arrayd_server.config_file import ConfigError
from arrayd_server.daemon import Daemon
from arrayd_server.segments.scope import Scope, ScopeTaken


def main() -> int:
    """Run the daemon; return its exit status: 0 ended as asked, 1 cannot serve, 2 bad options."""
    gc.freeze()  # what was imported is no garbage: it is not searched, the last time at the end
    try:
        config = Config.load(sys.argv[1:])
        logs.configure(config)
        if systemd.watchdog_interval() is not None:
            faulthandler.enable()  # the watchdog's SIGABRT shall tell where the loop hangs
        path = config.endpoint.removeprefix("ipc://")
        descriptors = systemd.passed_descriptors()
        passed = systemd.passed_socket(descriptors, path)
        asked = systemd.passed_metrics_sockets(descriptors)
        if passed is None:  # the socket's directory is made for this user alone
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with Scope(config.endpoint) as scope:
            asyncio.run(_serve(config, scope, passed, asked))
    except ConfigError as error:
        return _complain(error, 2)
    except ScopeTaken as error:
        return _complain(f"{error} See it with `arrayd status`.", 1)
    except (ArraydError, OSError) as error:
        return _complain(error, 1)
    return 0


def _complain(error: object, status: int) -> int:
    sys.stderr.write(f"arrayd: {error}\n")
    return status


async def _serve(
    config: Config, scope: Scope, passed: socket.socket | None, asked: list[socket.socket]
) -> None:
    await Daemon(config, scope, lambda: Config.load(sys.argv[1:]), passed, asked).run()
