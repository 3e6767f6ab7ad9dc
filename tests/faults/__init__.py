"""Faults: real processes, killed and restarted at random, and what must hold all the same."""
