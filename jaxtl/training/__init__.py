"""From an experiment to a trained, stored run."""
