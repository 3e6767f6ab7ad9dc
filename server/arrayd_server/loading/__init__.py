"""From a job of the core to the tasks of loader processes, and back."""
