"""From bytes on sockets to requests, in a fair order, and back; it knows nothing of blocks."""
