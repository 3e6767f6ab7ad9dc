"""From the values of a file to the dtype that was asked for, and no silent loss on the way."""
