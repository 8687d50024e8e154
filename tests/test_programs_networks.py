"""Networks, adapters, classifiers and sweeps compile once: another value of the same shape needs no program."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from programs import counting
from test_networks import LOCAL, random_parameters

from critjax.networks import (
    Classifier,
    ClassifierConfig,
    ClassifierTraining,
    TrainingConfig,
    apply,
    classifier_features,
    classifier_logits,
    classify,
    convolve,
    evaluate_classifier,
    held_out_loss,
    init,
    init_classifier,
    jax_denoiser,
    network_denoiser,
    train,
    train_classifier,
)
from critjax.sweeps import sweep

LABELLED = dataclasses.replace(LOCAL, width=4, dilations=(1,), num_classes=3)
JUDGE = ClassifierConfig(image_shape=(4, 6, 1), widths=(4,), num_classes=3)


def numbers(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def half(x, t):
    return x / 2


def shifted(x, t, offset):
    return x - offset


def minus_log(offset, sigma):
    return -offset * sigma


def judge(seed):
    shapes = jax.eval_shape(functools.partial(init_classifier, JUDGE), jax.random.key(0))
    params = jax.tree.map(lambda a: numbers(seed, *a.shape), shapes)
    return Classifier(JUDGE, params, 1.0 + seed, {})


def denoiser_of_offset(seed):
    """A model and a time with arrays of their own."""
    function = jax.tree_util.Partial(shifted, offset=np.float32(seed))
    time_fn = jax.tree_util.Partial(minus_log, np.float32(1 + seed))
    return jax_denoiser(function, parameterisation="v", time_fn=time_fn)


def square(scale, x):
    return {"value": scale * x**2}


KINDS_OF_SIGMA = (0.5, np.float32(0.7))
CASES = {
    "init": lambda seed: init(LABELLED, jax.random.key(seed)),
    "apply": lambda seed: apply(
        LABELLED,
        random_parameters(LABELLED, seed),
        numbers(seed, 2, 5, 6, 1),
        np.float32([0.5, 1 + seed]),
        np.array([seed, 2]),
    ),
    "convolve": lambda seed: convolve(numbers(seed, 2, 5, 6, 1), numbers(seed, 3, 3, 1, 2)),
    "network_denoiser": lambda seed: network_denoiser(LABELLED, random_parameters(LABELLED, seed), seed)(
        numbers(seed, 5, 6, 1), KINDS_OF_SIGMA[seed]
    ),
    "jax_denoiser": lambda seed: denoiser_of_offset(seed)(numbers(seed, 5, 6, 1), KINDS_OF_SIGMA[seed]),
    "jax_denoiser of a schedule": lambda seed: jax_denoiser(half, parameterisation="vp-epsilon")(
        numbers(seed, 5, 6, 1), KINDS_OF_SIGMA[seed]
    ),
    "classify": lambda seed: classify(judge(seed), numbers(seed, 2, 4, 6, 1)),
    "classifier_features": lambda seed: classifier_features(judge(seed), numbers(seed, 2, 4, 6, 1)),
    "classifier_logits": lambda seed: classifier_logits(judge(seed), numbers(seed, 5, 4, 6, 1), batch_size=2),
    "evaluate_classifier": lambda seed: evaluate_classifier(
        judge(seed), numbers(seed, 5, 4, 6, 1), np.arange(5) % 3, batch_size=2
    ),
    "held_out_loss": lambda seed: held_out_loss(
        jax.tree_util.Partial(shifted, offset=np.float32(seed)),
        numbers(seed, 5, 4, 6, 1),
        (0.5, 1.0 + seed),
        seed=seed,
        batch_size=2,
    ),
    "sweep": lambda seed: sweep(
        jax.tree_util.Partial(square, np.float64(1 + seed)), numbers(seed, 7), batch_size=3
    ),
    "train": lambda seed: train(
        LABELLED,
        TrainingConfig(
            num_steps=2,
            batch_size=2,
            seed=seed,
            learning_rate=0.1 + seed,
            clip_norm=1.0 + seed,
            ema_decay=0.5 + 0.1 * seed,
            log_noise_mean=0.1 * seed,
            log_noise_std=1.0 + seed,
            label_dropout=seed / 2,
        ),
        numbers(seed, 5, 4, 6, 1),
        np.arange(5) % 3,
        log_every=1,
    ),
    "train_classifier": lambda seed: train_classifier(
        JUDGE,
        ClassifierTraining(
            num_steps=2,
            batch_size=2,
            seed=seed,
            learning_rate=0.1 + seed,
            weight_decay=0.1 * seed,
            clip_norm=1.0 + seed,
            ema_decay=0.5 + 0.1 * seed,
            label_smoothing=seed / 2,
            noise_std=0.1 + seed,
        ),
        numbers(seed, 5, 4, 6, 1),
        np.arange(5) % 3,
        log_every=1,
    ),
}
#: A key out of a seed is a program by itself, and drawing weights is one more than a step.
FIRST = {"train": 4, "train_classifier": 4}


@pytest.mark.parametrize("name", CASES)
def test_a_second_call_with_other_values_compiles_nothing(name):
    jax.clear_caches()
    jax.random.key(0)
    with counting() as first:
        one = CASES[name](0)
    with counting() as second:
        other = CASES[name](1)
    assert first.programs <= FIRST.get(name, 3), first.programs
    assert second.programs == 0
    leaves = [np.concatenate([np.ravel(a) for a in jax.tree.leaves(found)]) for found in (one, other)]
    assert np.any(leaves[0] != leaves[1])  # the values were arguments indeed
