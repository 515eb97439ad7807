"""Ensembles of runs: averages, votes, stacking, calibration."""
