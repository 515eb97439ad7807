"""The contract's rows of semi-supervised learning."""

ROWS = []
