"""Requests become events of the core; its effects are performed here."""
