"""Temperature and calibration error: known temperatures, a fine scan, loops."""

import numpy as np
import pytest

from critjax.networks import expected_calibration_error, fit_temperature


def drawn_logits(count, temperature, seed=0):
    """Logits, and labels drawn from their softmax at a temperature: that temperature is right."""
    rng = np.random.default_rng(seed)
    logits = 3 * rng.normal(size=(count, 4))
    powers = np.exp(logits / temperature)
    edges = np.cumsum(powers / powers.sum(axis=1, keepdims=True), axis=1)
    return logits, (rng.uniform(size=(count, 1)) > edges[:, :-1]).sum(axis=1)


def likelihood(logits, labels, temperature):
    powers = np.exp(logits / temperature)
    return -np.mean(np.log((powers / powers.sum(axis=1, keepdims=True))[np.arange(len(labels)), labels]))


@pytest.mark.parametrize("temperature", [0.6, 2.5])
def test_temperature_is_found_and_lowers_the_negative_log_likelihood(temperature):
    logits, labels = drawn_logits(4000, temperature)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.1)
    grid = found * np.exp(np.linspace(-0.02, 0.02, 41))
    values = [likelihood(logits, labels, t) for t in grid]
    assert np.argmin(values) == 20  # the least of a fine scan is in its middle
    assert likelihood(logits, labels, found) < likelihood(logits, labels, 1.0) - 0.01
    np.testing.assert_array_equal((logits / found).argmax(axis=1), logits.argmax(axis=1))


def test_calibration_error_against_loops():
    logits, labels = drawn_logits(500, 2.0)
    powers = np.exp(logits)
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    for num_bins in (1, 15):
        total = 0.0
        for b in range(num_bins):
            rights, confidences = [], []
            for row, label in zip(probabilities, labels, strict=True):
                if b / num_bins < max(row) <= (b + 1) / num_bins:
                    rights.append(np.argmax(row) == label)
                    confidences.append(max(row))
            if rights:
                total += len(rights) / 500 * abs(np.mean(rights) - np.mean(confidences))
        found = expected_calibration_error(probabilities, labels, num_bins=num_bins)
        assert found == pytest.approx(total, rel=1e-12)
    # Labels of half the temperature: calibrated when divided by it, up to chance; far off when not.
    powers = np.exp(logits / 2)
    assert expected_calibration_error(powers / powers.sum(axis=1, keepdims=True), labels) < 0.08
    assert expected_calibration_error(probabilities, labels) > 0.12


def test_calibration_error_puts_a_confidence_on_an_edge_into_the_lower_bin():
    probabilities = np.array([[0.5, 0.5], [0.6, 0.4], [1.0, 0.0]])
    # Bins of (0, 0.5] and (0.5, 1]: gaps 1 - 0.5, and (0 + 1) - 1.6.
    assert expected_calibration_error(probabilities, np.array([0, 1, 0]), num_bins=2) == pytest.approx(
        1.1 / 3
    )
