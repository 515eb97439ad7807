"""The contract's rows of domain generalisation."""

ROWS = []
