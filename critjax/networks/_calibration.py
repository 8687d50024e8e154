r"""How good and how honest a classifier is: accuracy, likelihood, calibration error, temperature.

Logits or probabilities and labels are concrete arrays; everything but the network itself computes in float64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from critjax._checks import check, check_count, check_finite, check_rank
from critjax.networks._classifier import Classifier, judge

#: Temperatures among which `fit_temperature` looks.
TEMPERATURES = (0.05, 20.0)


class ClassifierReport(NamedTuple):
    """Result of `evaluate_classifier`, on a number of images."""

    accuracy: float
    """Fraction of the images whose most probable class is theirs."""
    accuracy_error: float
    """Its binomial standard error, ``sqrt(a (1 - a) / n)``."""
    negative_log_likelihood: float
    """Mean of ``-ln p(label)``, nats."""
    negative_log_likelihood_error: float
    """Its standard error."""
    calibration_error: float
    """See `expected_calibration_error`; 15 bins."""
    confusion: np.ndarray
    """(num_classes, num_classes) counts: row the true class, column the most probable one."""


def _checked(name: str, values: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return values (n, classes) in float64 and labels (n,), or raise."""
    check_rank(name, values, "n num_classes")
    check_finite(name, values)
    values, labels = np.asarray(values, np.float64), np.asarray(labels)
    count, classes = values.shape
    whole = labels.shape == (count,) and labels.dtype.kind in "ui" and count > 0
    good = whole and bool(labels.min() >= 0 and labels.max() < classes)
    expected = f"one of 0 ... {classes - 1} for each of {count} images"
    inside = f" from {labels.min()} to {labels.max()}" if labels.size else ""
    got = f"{labels.dtype} of shape {labels.shape}{inside}"
    check(good, "labels", expected, got, "correct them")
    return values, labels


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def expected_calibration_error(probabilities: Any, labels: Any, *, num_bins: int = 15) -> float:
    r"""Give the gap between confidence and accuracy, averaged over images in bins of confidence.

    ``ECE = sum_b n_b/n |accuracy_b - confidence_b|``

    Parameters
    ----------
    probabilities : array (n, num_classes)
        Confidence is the largest of a row; it falls into one of the bins ((b-1)/num_bins, b/num_bins].
    labels : integer array (n,)
    num_bins : int

    Returns
    -------
    float
        In [0, 1]; 0 if confidence is right in every bin. Biased upward: with n_b images in a bin, chance alone gives
        it a gap of about ``sqrt(2 a (1 - a) / (pi n_b))``.

    Raises
    ------
    ValueError
        If there is no bin, or labels and probabilities do not fit.

    Notes
    -----
    Guo, Pleiss, Sun and Weinberger 2017, arXiv:1706.04599, equation 3.

    Example
    -------
    >>> print(f"{expected_calibration_error(np.array([[0.8, 0.2], [0.7, 0.3]]), np.array([0, 1])):.2f}")
    0.45
    """
    probabilities, labels = _checked("probabilities", probabilities, labels)
    num_bins = check_count("num_bins", num_bins, least=1, advice="15 is usual")
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    gaps = np.bincount(bins, right - confidence, num_bins)
    return float(np.abs(gaps).sum() / len(labels))


def fit_temperature(logits: Any, labels: Any) -> float:
    r"""Find the temperature T that maximises the likelihood of ``softmax(logits / T)`` on held-out images.

    Parameters
    ----------
    logits : array (n, num_classes)
    labels : integer array (n,)

    Returns
    -------
    float
        T > 0; above 1 if the logits were too sure. The most probable class never changes.

    Raises
    ------
    ValueError
        If labels and logits do not fit, or no T from 0.05 to 20 is best, e.g. since every image is classified right.

    Notes
    -----
    Guo, Pleiss, Sun and Weinberger 2017, arXiv:1706.04599, section 4.2. The mean log likelihood is concave in 1/T: its
    slope, mean logit of the label less mean of the expected logit, has one zero, found by Brent's method.

    Example
    -------
    >>> logits = np.log([[0.9, 0.1]] * 4)  # sure by nine to one, right three times out of four
    >>> print(f"{fit_temperature(logits, np.array([0, 0, 0, 1])):.3f} {np.log(9) / np.log(3):.3f}")
    2.000 2.000
    """
    from scipy.optimize import brentq

    logits, labels = _checked("logits", logits, labels)
    own = logits[np.arange(len(labels)), labels].mean()

    def slope(inverse: float) -> float:
        expected = (np.exp(_log_softmax(inverse * logits)) * logits).sum(axis=1)
        return float(own - expected.mean())

    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    found = slope(low), slope(high)
    got = "a likelihood that still grows there"
    advice = "hold out more images; with none wrong, or no better than chance, no temperature is best"
    expected = f"a best temperature from {TEMPERATURES[0]} to {TEMPERATURES[1]}"
    check(found[0] > 0 > found[1], "logits", expected, got, advice)
    inverse: Any = brentq(slope, low, high, xtol=1e-12)
    return 1 / inverse


def classifier_logits(classifier: Classifier, images: Any, *, batch_size: int = 50) -> np.ndarray:
    """Give the logits of many images, before any temperature.

    Parameters
    ----------
    classifier : Classifier
    images : array (n, H, W, C)
        In [-1, 1].
    batch_size : int
        Images at once; the last batch is filled up, so that all of them share a program.

    Returns
    -------
    float64 array (n, num_classes)

    Raises
    ------
    ValueError
        If the images do not fit the classifier, there are none, or the batch size is no positive integer.

    Example
    -------
    >>> from critjax.networks import load_classifier
    >>> classifier_logits(load_classifier(), np.zeros((5, 28, 28, 1)), batch_size=3).shape
    (5, 10)
    """
    batch_size = check_count("batch_size", batch_size, least=1, advice="use 50")
    images = np.asarray(images, np.float32)
    check_rank("images", images, "n H W C")
    check(len(images) > 0, "images", "one or more", 0, "pass some")
    size, parts = min(batch_size, len(images)), []
    for first in range(0, len(images), size):
        rows = np.minimum(np.arange(first, first + size), len(images) - 1)
        parts.append(np.asarray(judge(classifier, images[rows]).logits, np.float64))
    return np.concatenate(parts)[: len(images)]


def evaluate_classifier(
    classifier: Classifier, images: Any, labels: Any, *, batch_size: int = 50
) -> ClassifierReport:
    """Measure a classifier on images that it was not trained on.

    Parameters
    ----------
    classifier : Classifier
    images : array (n, H, W, C)
        In [-1, 1].
    labels : integer array (n,)
    batch_size : int
        Images at once.

    Returns
    -------
    ClassifierReport
        Accuracy, negative log-likelihood and their standard errors, calibration error and confusion matrix.

    Raises
    ------
    ValueError
        If images or labels do not fit.

    Example
    -------
    >>> from critjax.data import embedded_fashion_mnist
    >>> from critjax.networks import load_classifier
    >>> found = embedded_fashion_mnist(30)
    >>> evaluate_classifier(load_classifier(), found.images, found.labels, batch_size=3).accuracy > 0.8
    True
    """
    check_rank("images", images, "n H W C")
    check(len(images) >= 2, "images", "two or more", len(images), "one image has no standard error")
    logits, labels = _checked("logits", classifier_logits(classifier, images, batch_size=batch_size), labels)
    count, classes = logits.shape
    log_probabilities = _log_softmax(logits / classifier.temperature)
    chosen = log_probabilities.argmax(axis=1)
    accuracy = float(np.mean(chosen == labels))
    losses = -log_probabilities[np.arange(count), labels]
    return ClassifierReport(
        accuracy=accuracy,
        accuracy_error=float(np.sqrt(accuracy * (1 - accuracy) / count)),
        negative_log_likelihood=float(losses.mean()),
        negative_log_likelihood_error=float(losses.std(ddof=1) / np.sqrt(count)),
        calibration_error=expected_calibration_error(np.exp(log_probabilities), labels),
        confusion=np.bincount(classes * labels + chosen, minlength=classes**2).reshape(classes, classes),
    )
