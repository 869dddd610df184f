"""The experiments, and the command that runs them: `python -m benchmarks`."""
