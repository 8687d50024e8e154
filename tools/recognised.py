"""Print how often the shipped classifier recognises the class that samples of a network were asked for.

The samples are those of ``critjax train``: Heun steps from sigma 80 to 0.02, all classes in turn, with the same three
options. Networks without classes are asked for none; for them only the probability of the classifier's first choice is
told. Errors are standard errors over samples. Some minutes on two cores::

    python tools/recognised.py local-15 --sample-eta 8 --sample-steps 576 --sample-guidance 2 [--num 80]
"""

from __future__ import annotations

import argparse
import sys

import jax
import jax.numpy as jnp
import numpy as np

from critjax.cli._train import draw_samples
from critjax.networks import classify, load_classifier, load_network

SHAPE = (28, 28, 1)


def with_error(values: np.ndarray) -> str:
    """Write mean and standard error of one number a sample."""
    return f"{values.mean():.3f} ± {values.std(ddof=1) / np.sqrt(len(values)):.3f}"


def main(arguments: list[str] | None = None) -> int:
    """Draw, classify, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", help="shipped name or file of weights")
    parser.add_argument("--sample-eta", type=float, default=0.0, help="(default: %(default)g)")
    parser.add_argument("--sample-steps", type=int, default=64, help="(default: %(default)s)")
    parser.add_argument("--sample-guidance", type=float, default=1.0, help="(default: %(default)g)")
    parser.add_argument("--num", type=int, default=80, help="samples (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=5, help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    network, classifier = load_network(options.network), load_classifier()
    config = network.config
    samples = draw_samples(
        config,
        network.params,
        SHAPE,
        options.seed,
        num_steps=options.sample_steps,
        eta=options.sample_eta,
        guidance=options.sample_guidance,
        count=options.num,
    )
    found = np.asarray(jax.jit(lambda x: classify(classifier, x))(jnp.asarray(samples)), np.float64)
    print(f"probability of the first choice {with_error(found.max(1))}")
    if config.num_classes:
        asked = np.arange(options.num) % config.num_classes
        print(
            f"class that was asked for recognised in {with_error((found.argmax(1) == asked).astype(float))}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
