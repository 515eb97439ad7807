"""Initial values that several families share."""

import flax.linen as nn

# Of the kernels and tables of transformers, as in BERT and GPT-2.
NORMAL = nn.initializers.normal(0.02)
