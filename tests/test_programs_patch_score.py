"""What patch scores, closed-form denoisers, banks and the sampler compile: one program a shape, for all values."""

import jax
import numpy as np
import pytest
from programs import counting

from critjax.banks import ImageBank, PatchBank, random_pattern_bank, select, stripe_bank, two_pattern_bank
from critjax.closed_form import (
    gaussian_denoiser,
    gaussian_fields,
    gaussian_symbol,
    ideal_denoiser,
    ideal_log_weights,
    image_spectrum,
    mixture_denoiser,
    score,
    two_pattern_denoiser,
)
from critjax.patch_score import effective_patches, patch_denoiser, patch_denoisers, scheduled_denoiser
from critjax.sampling import initial_state, langevin_step, sample


def _values(seed):
    """Return noise of a shape, a bank of patches, one of images, a number in (1/2, 1) and a key."""
    rng = np.random.default_rng(seed)

    def array(*shape):
        return rng.normal(size=shape).astype(np.float32)

    return array, PatchBank(array(4, 3, 3, 1)), ImageBank(array(3, 6, 5, 1), 3), rng.uniform(0.5, 1), seed


def _spectrum(array):
    modes = np.fft.fft2(array(5, 6, 5, 2), axes=(1, 2))
    return (np.einsum("nhwa,nhwb->hwab", modes, modes.conj()) / 150).astype(np.complex64)


X = (6, 5, 1)
CALLS = {
    "patch_denoiser": lambda a, p, b, s, k: patch_denoiser(b)(a(*X), s),
    "convolution": lambda a, p, b, s, k: patch_denoiser(p, readout="average")(a(*X), s),
    "effective_patches": lambda a, p, b, s, k: effective_patches(p)(a(*X), s),
    "patch_denoisers": lambda a, p, b, s, k: patch_denoisers(b, (1, 5), with_effective=True)(a(*X), s),
    "scheduled_denoiser": lambda a, p, b, s, k: scheduled_denoiser(
        [patch_denoiser(p), ideal_denoiser(b.images)], [s]
    )(a(*X), 0.7),
    "ideal_denoiser": lambda a, p, b, s, k: ideal_denoiser(b.images)(a(*X), s),
    "ideal_log_weights": lambda a, p, b, s, k: ideal_log_weights(b.images, a(*X), s),
    "mixture_denoiser": lambda a, p, b, s, k: mixture_denoiser(a(3, *X), s)(a(*X), s),
    "two_pattern_denoiser": lambda a, p, b, s, k: two_pattern_denoiser(3)(a(*X), s),
    "gaussian_denoiser": lambda a, p, b, s, k: gaussian_denoiser(a(6, 5, 2), _spectrum(a))(a(6, 5, 2), s),
    "gaussian_symbol": lambda a, p, b, s, k: gaussian_symbol(_spectrum(a))(s),
    "gaussian_fields": lambda a, p, b, s, k: gaussian_fields(_spectrum(a)[None, ..., 0], _spectrum(a)),
    "image_spectrum": lambda a, p, b, s, k: image_spectrum(a(3, *X)),
    "score": lambda a, p, b, s, k: score(patch_denoiser(b), a(*X), s),
    "langevin_step": lambda a, p, b, s, k: langevin_step(patch_denoiser(p), k, a(*X), s, s),
    "initial_state": lambda a, p, b, s, k: initial_state(k, X, np.float32(s)),
    "sample": lambda a, p, b, s, k: sample(
        patch_denoiser(b), k, X, np.geomspace(4, s, 4), eta=s, langevin_steps=1, step_size=s
    ),
    "sample, the rest of a run": lambda a, p, b, s, k: sample(
        ideal_denoiser(b.images), k, X, [4, 3, 2, 1], x_init=a(*X), first_step=1 + int(s > 0.7)
    ),
    "two_pattern_bank": lambda a, p, b, s, k: two_pattern_bank(3),
    "random_pattern_bank": lambda a, p, b, s, k: random_pattern_bank(k, 3, 2),
    "stripe_bank": lambda a, p, b, s, k: stripe_bank(5, 4 + s),
    "select": lambda a, p, b, s, k: select(PatchBank(a(4, 3, 3, 1), labels=[0, 0, 1, 1]), 1),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_first_call_compiles_few_programs_and_the_next_none(name):
    found = []
    jax.clear_caches()
    for seed in (1, 2):
        *values, number = _values(seed)
        key = jax.random.key(number)
        with counting() as count:
            jax.block_until_ready(CALLS[name](*values, key))
        found.append(count.programs)
    assert found[0] <= (2 if name.startswith("gaussian") else 1) and found[1] == 0, found


def test_denoisers_of_one_shape_have_one_structure():
    """What differs statically is told apart, values are not."""
    (_, patches, images, *_), (_, others, pictures, *_) = _values(1), _values(2)
    structure = jax.tree.structure
    for build in (patch_denoiser, effective_patches):
        assert structure(build(patches)) == structure(build(others))
        assert structure(build(patches)) != structure(build(patches, readout="average"))
    assert structure(patch_denoiser(patches)) != structure(effective_patches(patches))
    assert structure(patch_denoisers(images, (3, 5))) == structure(patch_denoisers(pictures, [3, 5]))
    assert structure(patch_denoisers(images, (3, 5))) != structure(patch_denoisers(images, (5, 3)))
    assert structure(two_pattern_denoiser(3)) == structure(two_pattern_denoiser(3))
    assert structure(two_pattern_denoiser(3)) != structure(two_pattern_denoiser(5))


def test_a_denoiser_is_an_argument_of_programs_and_may_be_differentiated():
    """One program serves another bank; d/d bank through the denoiser equals that through its construction."""
    (array, first, *_), (_, second, *_) = _values(1), _values(2)
    x = array(*X)

    def total(denoise):
        return denoise(x, 0.8).sum()

    through = jax.jit(jax.grad(total))
    jax.block_until_ready(through(patch_denoiser(first)))
    with counting() as count:
        found = jax.block_until_ready(through(patch_denoiser(second)))
    assert count.programs == 0
    expected = jax.jit(jax.grad(lambda bank: total(patch_denoiser(bank))))(second)
    by_patches, by_prior = jax.tree.leaves(found)
    np.testing.assert_allclose(by_patches, expected.patches, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(by_prior, expected.log_prior, rtol=1e-5, atol=1e-6)


def test_what_critjax_returns_may_hold_numpy_arrays():
    """As after `jax.tree.map` with numpy, or for a bank whose fields were replaced."""
    array, patches, images, level, _ = _values(1)
    builds = (
        patch_denoiser(patches),
        effective_patches(patches),
        patch_denoisers(images, (3,)),
        mixture_denoiser(array(3, *X), level),
        gaussian_denoiser(array(*X), np.ones((6, 5), np.float32)),
        scheduled_denoiser([patch_denoiser(patches), ideal_denoiser(images.images)], [0.7]),
    )
    x = array(*X)
    for fn in builds:
        np.testing.assert_array_equal(jax.tree.map(np.asarray, fn)(x, level), fn(x, level))
