"""The low-rank compensator once more: dense matrices in numpy, one vector of parameters, float64.

Everything is kept in the full space of d dimensions, so no sum is ever turned into new coordinates:
a sum over pairs is a d x d matrix, restricted to the known directions by their projector.
"""

import numpy as np


class LowRankServer:
    """Compensates gradients, one arrival after the other."""

    def __init__(self, dimension, rank, *, strength, decay, confidence):
        self.rank, self.strength, self.decay, self.confidence = rank, strength, decay, confidence
        square = np.zeros((dimension, dimension))
        self.energy = square  # leading part of the mean of g g'
        self.moved, self.changed, self.spread, self.number = square, square, square, square
        self.last = None

    def principal(self, matrix):
        """Unit eigenvectors [r, d] and eigenvalues, the r <= rank largest above rounding."""
        values, vectors = np.linalg.eigh(matrix)
        values, vectors = values[::-1][: self.rank], vectors.T[::-1][: self.rank]
        kept = values > 1e-13 * max(values[0], 1e-300)
        return vectors[kept], values[kept]

    def __call__(self, gradient, w, stale):
        """The compensated gradient."""
        old, _ = self.principal(self.energy)
        inside = old.T @ old
        if self.last is not None and np.any(w != stale) and np.any(stale != self.last[1]):
            a, b = inside @ (stale - self.last[1]), inside @ (gradient - self.last[0])
            self.moved = self.decay * self.moved + np.outer(a, a)
            self.changed = self.decay * self.changed + np.outer(b, a)
            self.spread = self.decay * self.spread + np.outer(b, b)
            self.number = self.decay * self.number + inside
        self.last = gradient, stale

        fresh = self.decay * self.energy + (1 - self.decay) * np.outer(gradient, gradient)
        directions, energies = self.principal(fresh)
        self.energy = directions.T * energies @ directions
        now = directions.T @ directions
        for name in ("moved", "changed", "spread"):
            setattr(self, name, now @ getattr(self, name) @ now)
        # A count is carried by each direction alone, not by pairs of them.
        counts = np.einsum("kd,de,ke->k", directions, self.number, directions)
        self.number = directions.T * counts @ directions

        compensated = gradient.copy()
        for v, count in zip(directions, counts, strict=True):
            aa, ba, bb = (v @ m @ v for m in (self.moved, self.changed, self.spread))
            if aa <= 0 or count <= 2:
                continue
            slope = ba / aa
            error = np.sqrt(max(bb - slope * ba, 0.0) / (aa * (count - 2)))
            theta = max(slope - self.confidence * error, 0.0)
            compensated += self.strength * theta * (v @ (w - stale)) * v
        return compensated
