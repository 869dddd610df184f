"""Experiments of DC-ASGD: delayed gradients, with compensation and without."""
