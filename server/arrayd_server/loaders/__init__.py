"""One module or folder per format, and what all of them share; begin at `formats`."""
