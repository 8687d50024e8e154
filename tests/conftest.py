"""One configuration for all tests: float64 available, annotations enforced, compiled programs cached."""

import os
import tempfile

import jax
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_compilation_cache_dir", os.path.join(tempfile.gettempdir(), "critjax-test-jit-cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

install_import_hook("critjax", "beartype.beartype")
