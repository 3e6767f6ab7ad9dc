"""``python -m arrayd_server``: read the options, take the scope, serve."""

from __future__ import annotations

import asyncio
import gc
import os
import sys

from arrayd.errors import ArraydError
from arrayd_server import logs
from arrayd_server.config import Config, ConfigError
from arrayd_server.daemon import Daemon
from arrayd_server.segments.scope import Scope, ScopeTaken


def main() -> int:
    """Run the daemon; return its exit status: 0 ended as asked, 1 cannot serve, 2 bad options."""
    gc.freeze()  # what was imported is no garbage: it is not searched, the last time at the end
    try:
        config = Config.load(sys.argv[1:])
        logs.configure(config)
        _make_directory(config.endpoint)
        with Scope(config.endpoint) as scope:
            asyncio.run(_serve(config, scope))
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


async def _serve(config: Config, scope: Scope) -> None:
    await Daemon(config, scope).run()


def _make_directory(endpoint: str) -> None:
    """Make the socket's directory, for this user alone."""
    directory = os.path.dirname(endpoint.removeprefix("ipc://"))
    os.makedirs(directory, mode=0o700, exist_ok=True)


if __name__ == "__main__":
    sys.exit(main())
