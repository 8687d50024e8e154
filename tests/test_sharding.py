"""A bank distributed over eight devices gives the single-device answer, derivatives included."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType
jax.config.update("jax_enable_x64", True)
from critjax import ImageBank, PatchBank, patch_denoiser, random_pattern_bank
assert jax.device_count() == 8
mesh = jax.make_mesh((8,), ("bank",), axis_types=(AxisType.Auto,))
rng = np.random.default_rng(0)
x, v = jnp.asarray(rng.normal(size=(2, 9, 7, 1)))
images = jnp.asarray(rng.uniform(-1, 1, (11, 9, 7, 1)))
banks = {
    "patches": (random_pattern_bank(jax.random.key(0), 3, 9, dtype=jnp.float64), {}),
    "all": (ImageBank(images, 3), {}),
    "box": (ImageBank(images, 5), {"method": "box"}),
    "same": (ImageBank(images, 3, positions="same"), {"boundary": "zero"}),
}
for name, (bank, options) in banks.items():
    def results(x, v, bank, **extra):
        def f(x, sigma, bank):
            return patch_denoiser(bank, **options, **extra)(x, sigma)
        def loss(x, sigma, bank):
            return jnp.sum(jnp.sin(f(x, sigma, bank)))
        gradient = jax.grad(loss, argnums=(0, 1, 2), allow_int=True)
        return {
            "value": f(x, 0.7, bank),
            "jvp": jax.jvp(lambda x: f(x, 0.7, bank), (x,), (v,))[1],
            "grad": gradient(x, 0.7, bank),
            "hvp": jax.jvp(lambda x: gradient(x, 0.7, bank)[0], (x,), (v,))[1],
            "float32": f(x.astype(jnp.float32), 0.02, bank).astype(jnp.float64),
        }
    alone = jax.jit(lambda x, v, bank: results(x, v, bank))(x, v, bank)
    shared = jax.jit(lambda x, v, bank: results(x, v, bank, mesh=mesh, axis="bank"))(x, v, bank)
    for kind in alone:
        tolerance = 1e-6 if kind == "float32" else 1e-11
        for a, b in zip(jax.tree.leaves(alone[kind]), jax.tree.leaves(shared[kind]), strict=True):
            np.testing.assert_allclose(b, a, rtol=tolerance, atol=tolerance, err_msg=f"{name} {kind}")
    narrow = jnp.stack([x, v]).astype(jnp.float32)
    with jax.enable_x64(False):  # as for most users
        low = jax.tree.map(lambda a: a.astype(jnp.float32) if a.dtype == jnp.float64 else a, bank)
        alone, shared = (
            jax.jit(jax.vmap(patch_denoiser(low, **options, **extra), (0, None)))
            for extra in ({}, {"mesh": mesh, "axis": "bank"})
        )
        for sigma in jnp.asarray([0.05, 2e-4], jnp.float32):
            tolerance = {"rtol": 1e-6, "atol": 1e-6, "err_msg": f"{name} {sigma}"}
            np.testing.assert_allclose(shared(narrow, sigma), alone(narrow, sigma), **tolerance)
    print(name, "agrees")
"""


@pytest.mark.slow
def test_bank_sharded_over_eight_devices():
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split("\n")[:4] == ["patches agrees", "all agrees", "box agrees", "same agrees"]
