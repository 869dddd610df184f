"""Compiling what runs once: most of a cold test's time is spent in LLVM, or in one operation after
another compiled by itself."""

import collections
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


@contextlib.contextmanager
def counting_compilations():
    """Yields how often each jitted function was compiled inside, a Counter by its name.

    The size of a function's cache is no such count: jax empties and bypasses it as it sees fit.
    """
    counts = collections.Counter()

    def listen(event, _, fun_name="", **__):
        if event == "/jax/core/compile/backend_compile_duration":
            counts[fun_name.removeprefix("jit(").removesuffix(")")] += 1

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield counts
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
