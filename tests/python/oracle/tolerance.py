"""How far two correct implementations may differ, and how the difference is reported.

float32 keeps 24 bits. Run in float64, the reference shows that its own float32 result on these checkpoints is off by
1e-5 to 2e-5 of the largest logit (test_text.py measures it again): about 6e-8 per operation, amplified by a dozen
layers of norms and by the spread of the output matrix. Two correct implementations therefore differ by at most about
twice that; ROUNDING leaves a factor of about four for other summation orders on other machines. Switching off any
mechanism moves the logits by thousands of times as much (test_checkpoints.py).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

# What the project promises, relative to the largest logit or soft token.
PROMISED = 1e-3
# What correct float32 arithmetic reaches.
ROUNDING = 1e-4
# The encoder has three layers and no wide output matrix: it reaches 6e-7.
VISION_ROUNDING = 1e-5


def relative_error(got: ArrayLike, expected: ArrayLike) -> float:
    """The largest difference over the largest expected magnitude; infinite if anything is not finite."""
    a, b = np.asarray(got, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    assert a.shape == b.shape, f"shapes {a.shape} and {b.shape}"
    if not np.isfinite(a).all():
        return float("inf")
    return float(np.abs(a - b).max() / np.abs(b).max())


def rms(x: NDArray[np.floating]) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def assert_close(got: ArrayLike, expected: ArrayLike, tolerance: float = ROUNDING) -> None:
    """Fails with the worst row, which for logits is the position in the prompt."""
    error = relative_error(got, expected)
    if not error <= tolerance:
        a, b = np.asarray(got, dtype=np.float64), np.asarray(expected, dtype=np.float64)
        by_row = np.abs(a - b).reshape(len(b), -1).max(axis=1) / np.abs(b).max()
        first = int(np.argmax(~(by_row <= tolerance)))
        raise AssertionError(
            f"off by {error:.1e} of the largest value, {tolerance:.1e} allowed; first wrong row {first} of {len(b)} "
            f"(by {by_row[first]:.1e}), worst row {int(np.nanargmax(by_row))}"
        )
