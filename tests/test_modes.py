"""JAX as its users run it: strict promotion of dtypes, no promotion of ranks, keys used once.

Every call of the tests that count programs, in a process of its own: without checks of types, with warnings as errors.
"""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import pytest

import critjax

STRICT = {
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
    "jax_debug_key_reuse": True,
}


def outcomes(options):
    """Print the calls that raise, and with what."""
    for name, value in options.items():
        jax.config.update(name, value)
    import test_programs_fluctuations
    import test_programs_linear_theory
    import test_programs_patch_score

    warnings.simplefilter("error")
    theory, other = test_programs_linear_theory.Values(0), test_programs_fluctuations.value(0)
    *values, number = test_programs_patch_score._values(1)
    calls = {
        **{n: lambda c=c: c(theory) for n, c in test_programs_linear_theory.CALLS.items()},
        **{
            n: lambda c=c: c(other | {"key": jax.random.key(0)})
            for n, c in test_programs_fluctuations.CALLS.items()
        },
        **{
            n: lambda c=c: c(*values, jax.random.key(number))
            for n, c in test_programs_patch_score.CALLS.items()
        },
    }
    found = {}
    for name, call in calls.items():
        theory.key = jax.random.key(0)
        try:
            jax.block_until_ready(jax.tree.leaves(call()))
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    print(json.dumps([len(calls), found]))


@pytest.mark.slow
@pytest.mark.parametrize("double", [False, True])
def test_every_public_function_works_where_jax_is_strict(double):
    here, root = Path(__file__).parent, Path(critjax.__file__).parent.parent
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(root), str(here), os.environ.get("PYTHONPATH", "")]),
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_ENABLE_X64": str(int(double)),
    }
    program = f"import test_modes; test_modes.outcomes({STRICT!r})"
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    count, failures = json.loads(done.stdout.splitlines()[-1])
    assert count > 100 and not failures
