"""Trained models for deployment, and predictions from them."""
