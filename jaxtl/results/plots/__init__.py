"""Plots of runs, sweeps and analyses; importing one of them imports matplotlib."""
