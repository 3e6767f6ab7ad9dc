"""What users other than the daemon's own may have: decided here, by the kernel's rules."""
