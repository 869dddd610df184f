"""Compiled programs, kept between processes."""

import os
from pathlib import Path

import jax

COMPILED = Path(__file__).resolve().parents[2] / ".cache" / "jax"
"""Where they are kept."""


def keep_compiled_programs(folder: Path = COMPILED) -> None:
    """Compiles no program twice, in this process or a later one.

    Many experiments train one network on several data sets, or by several rules that differ in
    numbers alone: the same programs, built anew each time. Not for what times compilation.

    Args:
        folder: where programs are kept, unless the environment says.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
