"""What the kernel is asked: leases, inotify, /proc, memory. It knows nothing of arrayd's rules."""
