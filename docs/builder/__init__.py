"""Assembles the sources of the documentation site from the repository."""
