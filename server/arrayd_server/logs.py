"""Where log lines go: standard error, the journal, or a file that cannot grow without bound."""

from __future__ import annotations

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

from arrayd_server import systemd
from arrayd_server.config import Config
from arrayd_server.config_file import ConfigError
from arrayd_server.journal import JournalHandler
from arrayd_server.log_limit import LineLimit

FILE_BYTES = 1 << 20
"""A log file is renamed to ``FILE.1`` at this size; the one before it goes."""

LIMIT = LineLimit()
"""For what other users cause; it counts on when the file is changed."""

_LINE = "%(asctime)s %(levelname)-7s %(message)s"


def configure(config: Config) -> None:
    """Send what the daemon logs where `config` says.

    Raises
    ------
    ConfigError
        The log file cannot be opened.
    """
    logger = logging.getLogger("arrayd_server")
    new = _handler(config.log_file)  # if it cannot be had, all stays as it was
    new.addFilter(LIMIT)
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()
    logger.addHandler(new)
    logger.setLevel(config.log_level)
    logger.propagate = False


def _handler(file: Path | None) -> logging.Handler:
    if file is None and systemd.logs_to_journal():
        return JournalHandler()
    if file is None:
        handler: logging.Handler = logging.StreamHandler()
    else:
        try:
            handler = RotatingFileHandler(file, maxBytes=FILE_BYTES, backupCount=1)
        except OSError as error:
            raise ConfigError(f"log_file {file}: cannot be written: {error.strerror}.") from None
    handler.setFormatter(logging.Formatter(_LINE))
    return handler
