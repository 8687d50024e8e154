"""Programs of fluctuations, guidance, observables and noise: three in a first call, none in one with other values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from programs import counting

from critjax import fluctuations, fourier, guidance, noise, observables

SHAPE, GRID = (6, 5, 1), (6, 5)


def shrink(strength, x, sigma):
    return strength * x / (1 + sigma**2)


def over_variance(c, sigma):
    return c / sigma**2 * jnp.ones((*GRID, 1, 1), "complex64")


def value(number):
    """Arguments of both calls: arrays of one shape, keys, ladders, functions and numbers that depend on a number."""
    rng = np.random.default_rng(number)
    return {
        "key": jax.random.key(number),
        "sigmas": np.geomspace(6.0 + number, 1.0, 5),
        "eta": 0.5 + 0.1 * number,
        "denoise": Partial(shrink, np.float32(0.4 + 0.1 * number)),
        "other": Partial(shrink, np.float32(0.5 + 0.1 * number)),
        "symbol": Partial(over_variance, np.float32(0.4 + 0.1 * number)),
        "x": rng.normal(size=(8, *SHAPE)),
        "y": rng.normal(size=(8, *SHAPE)),
        "curve": rng.normal(size=7),
        "features": rng.normal(size=(12, 3)),
        "number": 1.3 + 0.1 * number,
    }


LABELS = np.arange(12) % 3
CALLS = {
    "gaussian_closure": lambda v: fluctuations.gaussian_closure(
        v["denoise"], v["key"], v["sigmas"], GRID, eta=v["eta"], num_samples=4, num_replicas=2, size=3
    ),
    "linear_structure_factor": lambda v: fluctuations.linear_structure_factor(
        v["symbol"], v["sigmas"], eta=v["eta"]
    ),
    "langevin_structure_factor": lambda v: fluctuations.langevin_structure_factor(
        v["symbol"], v["sigmas"], langevin_steps=int(10 * v["number"]), step_size=v["eta"]
    ),
    "two_pattern_closure": lambda v: fluctuations.two_pattern_closure(3, v["sigmas"], GRID, eta=v["eta"]),
    "transformed_closure": lambda v: fluctuations.transformed_closure(3, v["sigmas"], GRID, num_nodes=21),
    "freeze_out_length": lambda v: fluctuations.freeze_out_length(1.0, v["number"]),
    "freeze_out_distance": lambda v: fluctuations.freeze_out_distance(v["number"]),
    "resolves_freeze_out": lambda v: fluctuations.resolves_freeze_out(v["sigmas"], v["number"], 2.0),
    "guided": lambda v: guidance.guided(v["denoise"], v["other"], guidance.pulse(1.0, 2.0, v["number"]))(
        v["x"][0], v["number"]
    ),
    "pulse": lambda v: guidance.pulse(1.0, 2.0, v["number"])(v["number"]),
    "smooth_pulse": lambda v: guidance.smooth_pulse(1.0, 2.0, v["number"])(v["number"]),
    "weights_on": lambda v: guidance.weights_on(v["sigmas"], v["sigmas"])(v["number"]),
    "guidance_budget": lambda v: guidance.guidance_budget(guidance.constant(v["number"]), v["sigmas"]),
    "with_budget": lambda v: guidance.with_budget(guidance.pulse(1.0, 5.0, 2.0), v["sigmas"], v["number"])(
        2.0
    ),
    "quadrature_weights": lambda v: guidance.quadrature_weights(v["sigmas"]),
    "susceptibility": lambda v: guidance.susceptibility(
        v["denoise"], v["other"], jnp.mean, v["key"], SHAPE, v["sigmas"], eta=v["eta"]
    ),
    "linear_response": lambda v: guidance.linear_response(
        v["sigmas"], v["sigmas"], v["sigmas"], eta=v["eta"]
    ),
    "guidance_window": lambda v: guidance.guidance_window(
        v["denoise"], v["key"], SHAPE, v["sigmas"], eta=v["eta"], num_samples=2, num_resamples=5
    ),
    "describe_window": lambda v: guidance.describe_window(v["number"], 2 * v["number"]),
    "window_from": lambda v: guidance.window_from("log_snr", -v["number"], 1.0),
    "structure_factor": lambda v: observables.structure_factor(v["x"]),
    "sample_spectra": lambda v: observables.sample_spectra(v["x"]),
    "radial_average": lambda v: observables.radial_average(v["x"][0, ..., 0]),
    "correlation_length": lambda v: observables.correlation_length(v["x"], method="autocorrelation"),
    "second_moment_length": lambda v: observables.second_moment_length(v["x"][0, ..., 0] ** 2),
    "radial_autocorrelation": lambda v: observables.radial_autocorrelation(v["x"]),
    "order_parameter": lambda v: observables.order_parameter(v["x"]),
    "binder_cumulant": lambda v: observables.binder_cumulant(v["curve"]),
    "wall_density": lambda v: observables.wall_density(v["x"]),
    "first_crossing": lambda v: observables.first_crossing(np.arange(7.0), v["curve"], v["number"]),
    "interior_minimum": lambda v: observables.interior_minimum(np.arange(7.0), v["curve"]),
    "mean_kernel": lambda v: observables.mean_kernel(v["x"][0, ..., None] + 0j),
    "receptive_field_radius": lambda v: observables.receptive_field_radius(v["x"][0, ..., None]),
    "equilibrium_length": lambda v: observables.equilibrium_length(v["x"][0, ..., None]),
    "fit_gap": lambda v: observables.fit_gap(v["x"][0, ..., 0], v["y"][0, ..., 0] ** 2, num_shells=2),
    "bootstrap_error": lambda v: observables.bootstrap_error(jnp.mean, v["key"], v["x"], num_resamples=5),
    "bootstrap_values": lambda v: observables.bootstrap_values(jnp.mean, v["key"], v["x"], num_resamples=5),
    "jackknife": lambda v: observables.jackknife(jnp.mean, v["x"]),
    "jackknife_error": lambda v: observables.jackknife_error(jnp.mean, v["x"]),
    "jackknife_values": lambda v: observables.jackknife_values(jnp.mean, v["x"]),
    "frechet_distance": lambda v: observables.frechet_distance(v["features"], v["features"] ** 2),
    "frechet_error": lambda v: observables.frechet_error(v["features"], v["features"] ** 2, num_blocks=4),
    "frechet_change": lambda v: observables.frechet_change(
        v["features"], v["features"] ** 2, v["features"] ** 3
    ),
    "feature_variance": lambda v: observables.feature_variance(v["features"], LABELS),
    "feature_variance_change": lambda v: observables.feature_variance_change(
        v["features"], v["features"] ** 2, LABELS
    ),
    "geometric_sigmas": lambda v: noise.geometric_sigmas(10 * v["number"], 1.0, 5),
    "karras_sigmas": lambda v: noise.karras_sigmas(10 * v["number"], 1.0, 5),
    "sigma_to_ddpm_timestep": lambda v: noise.sigma_to_ddpm_timestep(v["number"]),
    "ddpm_timestep_to_sigma": lambda v: noise.ddpm_timestep_to_sigma(100 * v["number"]),
    "describe_noise": lambda v: noise.describe_noise(v["number"]),
    "frame_correction": lambda v: noise.frame_correction(v["number"], "vp"),
    "wavevectors": lambda v: fourier.wavevectors(GRID),
    "radial_shells": lambda v: fourier.radial_shells(GRID),
    "kernel_offsets": lambda v: fourier.kernel_offsets((3, 4)),
    "plane_wave": lambda v: fourier.plane_wave(GRID, v["curve"][:2]),
    "kernel_to_symbol": lambda v: fourier.kernel_to_symbol(v["x"][0, ..., None], GRID),
    "symbol_to_kernel": lambda v: fourier.symbol_to_kernel(v["x"][0, ..., None] + 0j, 3),
    "apply_symbol": lambda v: fourier.apply_symbol(v["x"][0, ..., None] + 0j, v["y"][0]),
}
# Functions that only assemble others, or compile nothing.
PLAIN = {
    "is_inside",
    "soft_modes",
    "constant",
    "sampler_levels",
    "window_status",
    "ddpm_sigma_range",
    "bootstrap_means",
}
PLAIN |= {"jackknife_spread", "fft2", "ifft2"}


@pytest.fixture(autouse=True, scope="module")
def nothing_compiled():
    """Forget what other files have compiled."""
    jax.clear_caches()


@pytest.mark.parametrize("name", CALLS)
def test_a_first_call_compiles_three_programs_at_most_and_a_second_none(name):
    first, second = value(0), value(1)
    for values, most in ((first, 3), (second, 0)):
        with counting() as count:
            jax.block_until_ready(jax.tree.leaves(CALLS[name](values)))
        assert count.programs <= most


def test_every_public_function_is_counted():
    public = {
        name
        for module in (fluctuations, guidance, observables, noise)
        for name in module.__all__
        if callable(getattr(module, name)) and not isinstance(getattr(module, name), type)
    }
    units = {
        name for name in noise.__all__ if "_to_" in name
    }  # share the mechanism of those that are counted
    aliases = {"WeightFn"}
    assert public - units - aliases - PLAIN <= set(CALLS)
