"""Segments in /dev/shm: made, sealed, described, adopted, unlinked."""
