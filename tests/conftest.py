"""One configuration for all tests: float64 available, annotations enforced, programs compiled in haste and cached."""

import os
import tempfile

import jaxlib

if jaxlib.__version__.startswith("0.10."):
    # Half of what a small program costs to compile here; later versions have no such choice.
    os.environ["XLA_FLAGS"] = f"--xla_cpu_use_fusion_emitters=false {os.environ.get('XLA_FLAGS', '')}"

import jax
import numpy as np
import pytest
from compile_count import CompileCount, pytest_addoption
from jaxtyping import install_import_hook

__all__ = ["pytest_addoption"]

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_compilation_cache_dir", os.path.join(tempfile.gettempdir(), "critjax-test-jit-cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

install_import_hook("critjax", "beartype.beartype")


def pytest_configure(config):
    # Compilation is most of what a test costs: in haste it gives slower code of the same arithmetic. Long science
    # computes for longer.
    jax.config.update("jax_disable_most_optimizations", config.getoption("markexpr") != "nightly")
    config.pluginmanager.register(CompileCount(config), "compile-count")


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Drop compiled programs after every file: each holds memory maps, and a process may have 65,530 of them."""
    yield
    jax.clear_caches()


@pytest.fixture
def full_optimisation():
    """Compile as users do, for the last digit of float32 and for tests that compute for longer than they compile."""
    hasty = jax.config.read("jax_disable_most_optimizations")  # no attribute in every version
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", hasty)


@pytest.fixture
def tiny_network(tmp_path):
    """Save a network of one block, untrained but for a head that is not zero; returns its file."""
    from critjax.networks import NetworkConfig, init, save_network

    def save(**options):
        config = NetworkConfig(width=4, dilations=(1,), sigma_data=0.7, **options)
        params = init(config, jax.random.key(0))
        shape = params["head"]["kernel"].shape
        params["head"]["kernel"] = 0.3 * np.random.default_rng(1).normal(size=shape)
        save_network(tmp_path / "tiny.safetensors", config, params)
        return str(tmp_path / "tiny.safetensors")

    return save
