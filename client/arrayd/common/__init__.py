"""What client and daemon both use: endpoints, sizes, /proc, arguments, failpoints."""
