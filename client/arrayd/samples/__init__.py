"""Which rows, of which files, in which order: functions of numbers, for client and daemon alike."""
