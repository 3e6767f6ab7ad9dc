"""One session with the daemon: its socket, the holds, and the calls that go through it."""
