"""The client and the operating system: mappings, signals, descriptors, starting a daemon."""
