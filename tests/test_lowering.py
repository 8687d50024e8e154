"""Programs for accelerators: all of them lower, in the precision of their inputs, and few steps wait for each other.

`jax.export` writes a program for a platform that is not here. What the compiler of that platform makes of it is not
tested, only that JAX knows how to write it down, and what it says.
"""

import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import critjax as cj
from critjax.patch_score import LEGAL
from critjax.patch_score._plan import Plan

PLATFORMS = ("cpu", "cuda", "tpu")
#: Code from outside of XLA that a program may call, and why. None: each would be missing on some platform, and
#: `jax.export` guarantees few of them.
CUSTOM_CALLS: dict[str, str] = {}
#: Operations on float64 scalars that are no arithmetic: numbers of Python, narrowed before they are used.
LITERALS = ("stablehlo.constant", "stablehlo.convert", "call @", "func.func")
#: Bytes a block for which the small banks here are several blocks.
BUDGET = 1000
MOST_STEPS = 64

#: One row for each engine runs by default.
USUAL = [
    ("patches", None, "periodic", "centre"),
    ("images", "all", "periodic", "centre"),
    ("images", "same", "zero", "average"),
]
ROWS = [
    pytest.param(row, marks=() if row in USUAL else pytest.mark.slow, id="-".join(map(str, row)))
    for row in LEGAL
]


def spec(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def bank_of(row, data, log_prior=None, size=3):
    kind, positions, _, _ = row
    if kind == "patches":
        return cj.PatchBank(data, log_prior)
    return cj.ImageBank(data, size, positions=positions, log_prior=log_prior)


def data_of(row):
    """Return the shapes of what a row is evaluated on: image, sigma, bank and prior."""
    bank = (7, 3, 3, 1) if row[0] == "patches" else (3, 6, 5, 1)
    return spec(6, 5, 1), spec(), spec(*bank), spec(bank[0])


def denoiser(row, method="auto", memory_budget=None):
    """Return ``(x, sigma, data, log_prior) -> denoised``."""
    options = {"boundary": row[2], "readout": row[3], "method": method, "memory_budget": memory_budget}
    return lambda x, sigma, data, prior: cj.patch_denoiser(bank_of(row, data, prior), **options)(x, sigma)


def with_derivatives(fn):
    """Return a function's value and derivatives with respect to everything, first and second, both modes."""

    def loss(*arguments):
        return jnp.sum(jnp.sin(fn(*arguments)))

    def gradient(*arguments):
        return jax.grad(loss, argnums=(0, 1, 2, 3))(*arguments)

    def everything(*arguments):
        return {
            "value": fn(*arguments),
            "jvp": jax.jvp(fn, arguments, arguments)[1],
            "grad": gradient(*arguments),
            "hvp": jax.jvp(gradient, arguments, arguments)[1],
        }

    return everything


def program(fn, arguments, platform) -> list[str]:
    """Return the lines of the program of a jitted function, written for a platform, without where they come from."""
    text = jax.export.export(fn, platforms=[platform])(*arguments).mlir_module()
    return [
        re.sub(r' loc\((?:[^()"]|"[^"]*")*\)', "", line)
        for line in text.splitlines()
        if not line.startswith("#loc")
    ]


def check(fn, *arguments, single=True):
    """Write a program for every platform and look at what it calls and, if ``single``, at its precision on a TPU.

    Returns the lines of each.
    """
    fn, programs = jax.jit(fn), []
    for platform in PLATFORMS:
        lines = program(fn, arguments, platform)
        programs.append(lines)
        assert len(lines) > 20
        called = set(re.findall(r"custom_call @(\w+)", "\n".join(lines)))
        assert called <= set(CUSTOM_CALLS), platform
        # A TPU has no float64: what looks like it is many operations of float32.
        if platform == "tpu" and single:
            assert not double_precision(lines)
    return programs


def double_precision(lines: list[str]) -> list[str]:
    """List the lines that do something in float64. Numbers of Python are float64 in this session, until narrowed."""
    wide = [line.strip() for line in lines if "f64" in line]
    return [
        s for s in wide if re.search(r"\dxf64|complex<f64>", s) or not any(name in s for name in LITERALS)
    ]


def assert_full_precision(lines: list[str]) -> None:
    """Every product asks for full float32: an accelerator would else take fewer digits."""
    products = [line for line in lines if re.search(r"= stablehlo\.(dot_general|convolution|dot)\b", line)]
    assert products
    assert not [line for line in products if line.count("HIGHEST") != 2]


# ---- patch scores
@pytest.mark.parametrize("row", ROWS)
def test_patch_scores_and_their_derivatives_lower(row):
    everything = with_derivatives(denoiser(row, memory_budget=BUDGET))
    for lines in check(everything, *data_of(row)):
        assert "stablehlo.while" in "\n".join(lines)  # block by block
        assert_full_precision(lines)


@pytest.mark.slow
@pytest.mark.parametrize(
    "row, method",
    [
        pytest.param(row, method, id="-".join(map(str, (*row, method))))
        for row in LEGAL
        if len(LEGAL[row]) > 1
        for method in LEGAL[row]
    ],
)
def test_every_method_lowers_in_one_block(row, method):
    for lines in check(with_derivatives(denoiser(row, method)), *data_of(row)):
        assert_full_precision(lines)


@pytest.mark.slow
@pytest.mark.parametrize("row", USUAL, ids=lambda row: "-".join(map(str, row)))
def test_batches_lower(row):
    fn, (x, sigma, data, prior) = denoiser(row, memory_budget=BUDGET), data_of(row)
    xs, sigmas = (jax.ShapeDtypeStruct((2, *a.shape), a.dtype) for a in (x, sigma))
    check(with_derivatives(jax.vmap(fn, (0, None, None, None))), xs, sigma, data, prior)
    check(with_derivatives(jax.vmap(fn, (0, 0, None, None))), xs, sigmas, data, prior)


@pytest.mark.slow
@pytest.mark.parametrize("row", USUAL, ids=lambda row: "-".join(map(str, row)))
def test_effective_numbers_of_patches_lower(row):
    def count(x, sigma, data, prior):
        bank = bank_of(row, data, prior)
        return cj.effective_patches(bank, boundary=row[2], readout=row[3])(x, sigma)

    check(with_derivatives(count), *data_of(row))


@pytest.mark.slow
@pytest.mark.parametrize("positions, boundary", [("all", "periodic"), ("all", "zero"), ("same", "zero")])
def test_several_sizes_lower(positions, boundary):
    def estimates(x, sigma, data, prior):
        bank = cj.ImageBank(data, 3, positions=positions, log_prior=prior)
        found = cj.patch_denoisers(bank, (3, 5), boundary=boundary, with_effective=True)(x, sigma)
        return jnp.concatenate([found.denoised.ravel(), found.effective.ravel()])

    check(with_derivatives(estimates), *data_of(("images",)))


@pytest.mark.slow
@pytest.mark.parametrize("row", USUAL, ids=lambda row: "-".join(map(str, row)))
def test_banks_shared_among_devices_lower(row):
    mesh = jax.make_mesh((1,), ("bank",), axis_types=(jax.sharding.AxisType.Auto,))

    def denoise(x, sigma, data, prior):
        bank = bank_of(row, data, prior)
        options = {"boundary": row[2], "readout": row[3], "mesh": mesh, "axis": "bank"}
        return cj.patch_denoiser(bank, **options)(x, sigma)

    check(with_derivatives(denoise), *data_of(row))


# ---- other programs
@pytest.mark.slow
def test_samplers_lower():
    key, sigmas = jax.eval_shape(lambda: jax.random.key(0)), np.array([2, 1, 0.5], np.float32)

    def run(key, images):
        denoise = cj.patch_denoiser(cj.ImageBank(images, 3))
        return cj.sample(denoise, key, (6, 5, 1), sigmas, eta=1.0, langevin_steps=1).x[-1]

    check(run, key, spec(3, 6, 5, 1))


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_symbols_and_growth_rates_lower(channels):
    # The three cube roots of one are written in the session's precision, and narrowed.
    def rate(images, sigma):
        return cj.growth_rate(cj.symbol(cj.ImageBank(images, 3), sigma, (6, 5)), sigma)

    check(rate, spec(3, 6, 5, channels), spec(), single=channels < 3)


@pytest.mark.slow
def test_networks_lower():
    from critjax.networks import NetworkConfig, apply, init

    config = NetworkConfig(width=4, dilations=(1,), sigma_data=0.7)
    key = jax.eval_shape(lambda: jax.random.key(0))
    # Initial weights have the session's precision; so have the frequencies that embed sigma, until narrowed.
    check(lambda key: init(config, key), key, single=False)
    params = jax.eval_shape(lambda key: init(config, key), key)
    params = jax.tree.map(lambda a: spec(*a.shape), params)
    check(lambda p, x, s: apply(config, p, x, s), params, spec(2, 28, 28, 1), spec(2), single=False)


# ---- sequential steps
def steps_of(fn, *arguments, platform="cuda") -> int:
    """Count the turns of loops that wait for each other in a program written for a platform.

    Loops after each other add, loops in each other multiply; of the branches of a choice only the longest counts.
    """
    module = jax.jit(fn).trace(*arguments).lower(lowering_platforms=(platform,)).compiler_ir()
    functions = {str(op.attributes["sym_name"]).strip('"'): op for op in module.body.operations}

    def inside(region) -> int:
        return sum(of(op) for block in region.blocks for op in block.operations)

    def of(op) -> int:
        regions, name = list(op.operation.regions), op.operation.name
        if name == "stablehlo.while":
            return turns(op.operation, regions[0].blocks[0]) * max(1, inside(regions[1]))
        if name in ("stablehlo.case", "stablehlo.if"):
            return max(map(inside, regions))
        if name in ("func.call", "call"):
            return inside(functions[str(op.attributes["callee"]).lstrip("@")].operation.regions[0])
        return sum(map(inside, regions))

    return inside(functions["main"].operation.regions[0])


def turns(loop, condition) -> int:
    """Return how often a loop runs whose condition is "number < constant"; it is counted in ones."""
    *_, compare, _ = condition.operations
    assert compare.operation.name == "stablehlo.compare" and "LT" in str(
        compare.attributes["comparison_direction"]
    )
    number, limit = compare.operation.operands
    return constant(limit) - constant(loop.operands[number.arg_number])


def constant(value) -> int:
    written = getattr(value.owner, "name", "an argument") == "stablehlo.constant"
    assert written, "a loop whose length is not written down"
    return int(re.match(r"dense<(-?\d+)>", str(value.owner.attributes["value"]))[1])


@pytest.mark.parametrize("size, side, channels", [(7, 28, 1), (15, 28, 1), (15, 32, 3)])
def test_one_evaluation_on_an_accelerator_is_few_sequential_steps(size, side, channels):
    def denoise(images, x, sigma):
        return cj.patch_denoiser(cj.ImageBank(images, size))(x, sigma)

    shape = (side, side, channels)
    bank, x, xs = spec(400, *shape), spec(*shape), spec(3, *shape)
    plan = Plan("images", "all", "periodic", "centre", size)
    blocks = -(-400 // plan.route(shape, bank.shape, np.float32, "other").images)
    assert 1 < blocks <= MOST_STEPS
    for platform in ("cuda", "tpu"):
        assert steps_of(denoise, bank, x, spec(), platform=platform) == blocks
        batch = jax.vmap(denoise, (None, 0, None))  # one image after the other
        assert steps_of(batch, bank, xs, spec(), platform=platform) == 3 * blocks
    # On a CPU every row of training windows is a step.
    assert steps_of(denoise, bank, x, spec(), platform="cpu") > MOST_STEPS


def test_steps_are_counted():
    def twice(x):
        def inner(x, _):
            return jax.lax.cond(x > 0, once, jnp.sin, x), None

        def once(x):
            return jax.lax.fori_loop(2, 7, lambda _, x: jnp.cos(x), x)

        return once(jax.lax.scan(inner, x, length=3)[0])

    assert steps_of(twice, spec()) == 3 * 5 + 5
    with pytest.raises(AssertionError, match="not written down"):
        steps_of(
            lambda n: jax.lax.fori_loop(0, n, lambda _, x: x + 1, 0), jax.ShapeDtypeStruct((), jnp.int32)
        )


def test_double_precision_is_seen():
    def wide(x):
        return (x.astype(jnp.float64) * 2).astype(jnp.float32)

    def narrow(x):
        return jnp.where(x > 0, x, 0.5) * 2.0

    for shape in ((), (3,)):
        assert double_precision(program(jax.jit(wide), [spec(*shape)], "tpu"))
        assert not double_precision(program(jax.jit(narrow), [spec(*shape)], "tpu"))


# ---- the page about accelerators
@pytest.mark.slow
def test_the_page_prints_what_the_script_counts_and_its_examples_run():
    root = Path(__file__).parent.parent
    page = (root / "docs" / "accelerators.md").read_text(encoding="utf-8")
    script = [sys.executable, str(root / "benchmarks" / "accelerator.py"), "--plan"]
    printed = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    rows = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(rows) > 20
    assert [line for line in page.splitlines() if line.startswith("|")] == rows
    names = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "accelerators.md", "exec"), names)
    assert names["found"].shape == (16, 12, 12, 1)
