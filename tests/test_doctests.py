"""The example of every public docstring runs and prints what it says."""

import doctest
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import critjax

MODULES = [
    name for _, name, _ in pkgutil.walk_packages(critjax.__path__, "critjax.") if "__main__" not in name
]

OPTIONAL = {"critjax.networks._torch": "torch"}


@pytest.fixture(autouse=True)
def kept_configuration(monkeypatch, tmp_path):
    """Let an example configure JAX for itself alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", jax.config.jax_compilation_cache_dir)
    double = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", double)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    if name in OPTIONAL:
        pytest.importorskip(OPTIONAL[name])
    module = importlib.import_module(name)
    globs = {"jax": jax, "jnp": jnp, "np": np} | vars(critjax) | vars(module)
    # Users run the examples in JAX's default precision.
    with jax.enable_x64(False):
        result = doctest.testmod(module, globs=globs)
    assert result.failed == 0
