"""From the values of a file to the dtype that was asked for, without a loss that is not told."""
