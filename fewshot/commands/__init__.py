"""The commands of the command line, a file each: `declare` says what one takes, `run` does it."""
