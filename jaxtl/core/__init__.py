"""What every room uses: types, errors, trees, configuration, checkpoints."""
