"""Experiments that combine methods."""
