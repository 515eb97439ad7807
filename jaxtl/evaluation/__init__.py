"""Metrics, forward passes over data sets, and the choice of checkpoints."""
