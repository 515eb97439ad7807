"""Data sources: each reads one kind of file into a Dataset."""
