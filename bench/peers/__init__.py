"""The other implementations, each run the way its users run it, at its best on the machine."""
