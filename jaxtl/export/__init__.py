"""Trained models as self-contained folders, and predictions from them."""
