"""What both sides use and what knows nothing of either: sizes, /proc, arguments, failpoints."""
