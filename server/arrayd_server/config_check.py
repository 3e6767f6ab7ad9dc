"""``python -m arrayd_server.config_check FILE``: say what is wrong with a file of options."""

from __future__ import annotations

import sys
from pathlib import Path

from arrayd_server import config


def main() -> int:
    """Print a line for each error; return 2 if there are any, as the daemon would, else 0."""
    path = Path(sys.argv[1])
    found = config.problems(path)
    if found:
        sys.stderr.write("".join(f"arrayd: {problem}\n" for problem in found))
        return 2
    sys.stdout.write(f"{path}: no errors\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
