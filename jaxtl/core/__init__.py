"""The ground floor: types, errors, trees, configuration, compilation, checkpoints."""
