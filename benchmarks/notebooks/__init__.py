"""The three ideas as notebooks: derived, run, looked at.

Each is a Python file in jupytext's percent format, written by hand, and an .ipynb made from it by
`python -m benchmarks.notebooks`, with its outputs.
"""

NAMES = (
    "path_space",
    "delayed_gradients",
    "latent_causes",
    "identified_latents",
    "delay_in_path_space",
)
"""The notebooks, in the order of reading."""
