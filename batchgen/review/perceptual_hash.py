"""A perceptual hash: 64 bits that stay the same, or nearly so, when an image is scaled, compressed or made a little lighter. Pure.

Which of the lowest 8 x 8 frequencies of the image at 32 x 32 in grey are high. Source: Zauner, Implementation and Benchmarking of
Perceptual Image Hash Functions (2010), 3.2.1. There each is compared with their median, which for what is symmetric, as a product
on white, lies among frequencies that are noise: the same image, scaled, then differs in 20 bits. Here it is compared with more than
noise makes. The package imagehash brings numpy and scipy, which a run need not have.
"""

from __future__ import annotations

import math
from operator import mul

from PIL import Image

SIDE = 32
FREQUENCIES = 8
NOISE = 50.0  # of a frequency, as scaling and compression make it
_COSINES = [[math.cos(math.pi * k * (2 * x + 1) / (2 * SIDE)) for x in range(SIDE)] for k in range(FREQUENCIES)]


def perceptual_hash(image: Image.Image) -> int:
    """Of 64 bits."""
    grey = image.convert("L").resize((SIDE, SIDE), Image.Resampling.HAMMING).tobytes()
    rows = [grey[at : at + SIDE] for at in range(0, SIDE * SIDE, SIDE)]
    across = [[sum(map(mul, row, cosines)) for row in rows] for cosines in _COSINES]  # by frequency, then by row
    found = [sum(map(mul, column, cosines)) for cosines in _COSINES for column in across]
    return sum(1 << bit for bit, value in enumerate(found) if value > NOISE)
