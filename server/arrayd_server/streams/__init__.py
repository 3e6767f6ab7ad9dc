"""The reader process of a stream, and the daemon's side of it: it fills a ring with rows."""
