"""What can be measured of a daemon, how it is counted, and the ways on which it leaves."""
