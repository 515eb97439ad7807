"""Studies of trained models: probes, ensembles, weight space, domain shift."""
