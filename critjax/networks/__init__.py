"""Networks in Flax: denoisers and a classifier, training, stored weights. Needs ``pip install critjax[networks]``."""

from critjax.networks._adapters import jax_denoiser
from critjax.networks._architectures import NetworkConfig, Parameters, apply, init, network_denoiser
from critjax.networks._calibration import (
    ClassifierReport,
    classifier_logits,
    evaluate_classifier,
    expected_calibration_error,
    fit_temperature,
)
from critjax.networks._classifier import (
    Classifier,
    ClassifierConfig,
    classifier_features,
    classify,
    init_classifier,
    load_classifier,
    save_classifier,
    shipped_classifiers,
)
from critjax.networks._classifier_training import ClassifierTraining, train_classifier
from critjax.networks._convolution import convolve
from critjax.networks._held_out import EVALUATION_SIGMAS, held_out_loss
from critjax.networks._step import TrainingConfig
from critjax.networks._torch import torch_denoiser
from critjax.networks._training import TrainedNetwork, train
from critjax.networks._weights import StoredNetwork, load_network, save_network, shipped_networks

__all__ = [
    "EVALUATION_SIGMAS",
    "Classifier",
    "ClassifierConfig",
    "ClassifierReport",
    "ClassifierTraining",
    "NetworkConfig",
    "Parameters",
    "StoredNetwork",
    "TrainedNetwork",
    "TrainingConfig",
    "apply",
    "classifier_features",
    "classifier_logits",
    "classify",
    "convolve",
    "evaluate_classifier",
    "expected_calibration_error",
    "fit_temperature",
    "held_out_loss",
    "init",
    "init_classifier",
    "jax_denoiser",
    "load_classifier",
    "load_network",
    "network_denoiser",
    "save_classifier",
    "save_network",
    "shipped_classifiers",
    "shipped_networks",
    "torch_denoiser",
    "train",
    "train_classifier",
]
