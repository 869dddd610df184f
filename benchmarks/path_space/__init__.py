"""Experiments of G-SGD: training in path space beside training on weights."""
