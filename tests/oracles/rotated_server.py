"""The rotated compensator once more: one dense matrix over all weights of a layer, numpy, float64.

No factor is applied by itself: rotations are Kronecker products, the diagonal that of a matrix.
"""

import numpy as np


class RotatedServer:
    """Compensates the gradients of one layer [m, n], one arrival after the other."""

    def __init__(self, shape, *, lambda_=None, decay, refresh, rotated=(True, True)):
        self.shape, self.lambda_, self.decay, self.refresh = shape, lambda_, decay, refresh
        self.rotated = rotated
        self.moments = [np.zeros((size, size)) for size in shape]
        self.rotation = np.eye(shape[0] * shape[1])
        self.squares = np.zeros(shape[0] * shape[1])
        self.arrivals, self.last, self.changed, self.moved = 0, None, 0.0, 0.0

    def learn(self, gradient):
        """Takes a gradient into the factors, and at times what is known into their eigenbasis."""
        seen = (gradient @ gradient.T, gradient.T @ gradient)
        self.moments = [
            self.decay * old + (1 - self.decay) * new
            for old, new in zip(self.moments, seen, strict=True)
        ]
        if self.arrivals % self.refresh == 0 or bin(self.arrivals).count("1") < 2:
            bases = [
                np.linalg.eigh(moment)[1] if turn else np.eye(len(moment))
                for moment, turn in zip(self.moments, self.rotated, strict=True)
            ]
            dense = self.rotation @ np.diag(self.squares) @ self.rotation.T
            self.rotation = np.kron(*bases)
            self.squares = np.diag(self.rotation.T @ dense @ self.rotation)
        now = (self.rotation.T @ gradient.ravel()) ** 2
        self.squares = self.decay * self.squares + (1 - self.decay) * now

    def learnt_scale(self, curvature, gradient, w, stale):
        """The slope of the gradients' changes on what a matrix of length 1 makes of the moves."""
        if self.last is not None and (self.arrivals - 1) % min(self.refresh, 10) == 0:
            before, pulled = self.last
            made = curvature @ (stale - pulled).ravel()
            if np.any(w != stale) and np.any(stale != pulled):
                self.changed = 0.99 * self.changed + made @ (gradient - before).ravel()
                self.moved = 0.99 * self.moved + made @ made
        self.last = gradient, stale
        return max(self.changed / self.moved, 0.0) if self.moved else 0.0

    def __call__(self, gradient, w, stale):
        """The compensated gradient."""
        self.learn(gradient)
        self.arrivals += 1
        curvature = self.rotation @ np.diag(self.squares) @ self.rotation.T
        if self.lambda_ is None:
            curvature /= np.linalg.norm(self.squares)
            curvature *= 0.75 * self.learnt_scale(curvature, gradient, w, stale)
        else:
            curvature *= self.lambda_ / (1 - self.decay**self.arrivals)
        return gradient + (curvature @ (w - stale).ravel()).reshape(self.shape)
