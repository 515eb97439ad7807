"""Modules of flax linen, flax nnx, equinox and haiku as staged networks."""
