"""Compiling what runs once: most of a cold test's time is spent in LLVM, or in one operation after
another compiled by itself."""

import contextlib
import functools

import jax

compiled_quickly = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)
"""`jax.jit` without optimisation: for functions that are called a few times on small arrays."""


@contextlib.contextmanager
def as_users_do():
    """Compiles with LLVM's optimisations, which the tests leave out elsewhere."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
