"""Augmentations: random changes of images and of tokenized texts."""
