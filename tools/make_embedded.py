"""Make ``critjax/_embedded/fashion_mnist_1000.npz`` again from the published files.

The first 100 images of each class of the training split in the order of the file, one class after the other
in turn, stored as bytes. Run from the repository's root::

    python tools/make_embedded.py

with the Debian package ``dataset-fashion-mnist`` installed, or with ``--root`` naming another copy. The
arrays are the same on every run; the compressed bytes also depend on the version of zlib.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from critjax.data import load_fashion_mnist

PER_CLASS = 100
ROOT = Path("/usr/share/datasets/fashion-mnist")
OUTPUT = Path(__file__).resolve().parents[1] / "critjax" / "_embedded" / "fashion_mnist_1000.npz"


def build(root: Path) -> dict[str, np.ndarray]:
    """Return the arrays of the file: images (1000, 28, 28) and labels (1000,), both uint8."""
    full = load_fashion_mnist("train", root=root)
    labels = full.labels
    if labels is None:
        raise ValueError("labels: expected one per image, got None; pass the folder of the published files")
    columns = [np.flatnonzero(labels == label)[:PER_CLASS] for label in range(len(full.class_names))]
    order = np.stack(columns, axis=1).ravel()  # row by row: one image of each class in turn
    values = np.rint((full.images[order, ..., 0].astype(np.float64) + 1) * 127.5)
    return {"images": values.astype(np.uint8), "labels": labels[order].astype(np.uint8)}


def main() -> None:
    """Parse the command line, build and write."""
    parser = argparse.ArgumentParser(description="Make the embedded part of Fashion-MNIST again.")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of the four published files")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="file to write")
    arguments = parser.parse_args()
    arrays = build(arguments.root)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(arguments.output, images=arrays["images"], labels=arrays["labels"])
    print(f"{arguments.output}: {len(arrays['images'])} images, {arguments.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
