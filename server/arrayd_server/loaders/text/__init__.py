"""Text files. `loader` is the format; begin there."""

from arrayd_server.loaders.text.loader import fill, probe

__all__ = ["fill", "probe"]
