"""Sources of data: each reads one kind of file, or renders its examples, as a Table."""
