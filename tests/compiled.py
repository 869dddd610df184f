"""Compiling what runs once: most of a cold test's time is spent in LLVM, or in one operation after
another compiled by itself."""

import functools

import jax

compiled_quickly = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)
"""`jax.jit` without optimisation: for functions that are called a few times on small arrays."""
