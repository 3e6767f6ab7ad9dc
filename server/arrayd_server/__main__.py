"""``python -m arrayd_server``: see `program`, which is imported when the fork server has begun."""

from __future__ import annotations

import sys

from arrayd_server.loading import early_start


def main() -> int:
    """Run the daemon; return its exit status."""
    if "--private" in sys.argv[1:]:
        early_start.begin()
    from arrayd_server import program  # here: it takes as long as the start of the fork server

    return program.main()


if __name__ == "__main__":
    sys.exit(main())
