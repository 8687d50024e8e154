"""Denoising networks in Flax: architectures, training and stored weights. Needs ``pip install critjax[networks]``."""

from critjax.networks._architectures import NetworkConfig, Parameters, apply, init, network_denoiser
from critjax.networks._convolution import convolve
from critjax.networks._torch import torch_denoiser
from critjax.networks._training import (
    EVALUATION_SIGMAS,
    TrainedNetwork,
    TrainingConfig,
    held_out_loss,
    train,
)
from critjax.networks._weights import StoredNetwork, load_network, save_network, shipped_networks

__all__ = [
    "EVALUATION_SIGMAS",
    "NetworkConfig",
    "Parameters",
    "StoredNetwork",
    "TrainedNetwork",
    "TrainingConfig",
    "apply",
    "convolve",
    "held_out_loss",
    "init",
    "load_network",
    "network_denoiser",
    "save_network",
    "shipped_networks",
    "torch_denoiser",
    "train",
]
