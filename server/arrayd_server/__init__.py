"""The arrayd daemon. Start reading at `daemon`; the rules are in `core.registry`."""
