"""The contract's rows of noisy and weak labels."""

ROWS = []
