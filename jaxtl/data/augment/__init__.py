"""Augmentations of images and of texts."""
