"""The contract between client and daemon: messages, their codec, dtypes, the segment's layout."""
