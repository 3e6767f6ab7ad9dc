"""The format "dataset": the rows of one field of a manifest, in whichever files they lie."""

from arrayd_server.loaders.dataset.loader import fill, probe

__all__ = ["fill", "probe"]
