"""What a client asks of the system: mappings, signals, descriptors, a daemon to be started."""
