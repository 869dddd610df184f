"""Path space of small perceptrons by listing every path, with nothing shared with gsgd_jax.

Entries are numbered as they lie in memory: of each layer the kernel [in, out] row by row, then the
bias where there is one. A path is the tuple of the entries it runs through: from an input, or from
a bias, to an output.
"""

import itertools
from collections.abc import Sequence

import numpy as np

Path = tuple[int, ...]


def entry_numbers(widths: Sequence[int], bias: bool) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The numbers of all kernel entries and of all bias entries, layer by layer."""
    kernels, biases, first = [], [], 0
    for fan_in, fan_out in itertools.pairwise(widths):
        kernels.append(first + np.arange(fan_in * fan_out).reshape(fan_in, fan_out))
        first += fan_in * fan_out
        biases.append(first + np.arange(fan_out if bias else 0))
        first += fan_out if bias else 0
    return kernels, biases


def num_entries(widths: Sequence[int], bias: bool) -> int:
    return sum(a * b + (b if bias else 0) for a, b in itertools.pairwise(widths))


def all_paths(widths: Sequence[int], bias: bool) -> list[Path]:
    """Every path, those from inputs first."""
    kernels, biases = entry_numbers(widths, bias)
    depth = len(kernels)
    paths = []
    for units in itertools.product(*(range(width) for width in widths)):
        paths.append(tuple(int(kernels[k][units[k], units[k + 1]]) for k in range(depth)))
    for start in range(depth if bias else 0):
        for units in itertools.product(*(range(width) for width in widths[start + 1 :])):
            rest = (
                int(kernels[k][units[k - start - 1], units[k - start]])
                for k in range(start + 1, depth)
            )
            paths.append((int(biases[start][units[0]]), *rest))
    return paths


def structure_matrix(paths: Sequence[Path], num: int) -> np.ndarray:
    """A[e, p] = 1 where path p runs through entry e; float64, [entries, paths]."""
    matrix = np.zeros((num, len(paths)))
    columns = np.repeat(np.arange(len(paths)), [len(path) for path in paths])
    matrix[np.fromiter(itertools.chain.from_iterable(paths), np.int64), columns] = 1
    return matrix


def rank(paths: Sequence[Path], num: int, chunk: int = 4096) -> int:
    """The rank of the structure matrix, exactly, from its Gram matrix of whole numbers.

    Over the integers modulo a prime the rank can only be lower, so a rank that meets the bound
    m - H is exact; floating-point tolerances do not enter.
    """
    gram = np.zeros((num, num))
    for start in range(0, len(paths), chunk):
        part = structure_matrix(paths[start : start + chunk], num)
        gram += part @ part.T  # whole numbers far below 2**53
    return _rank_modulo(gram.astype(np.int64), prime=2_147_483_647)


def _rank_modulo(matrix: np.ndarray, prime: int) -> int:
    matrix, found = matrix % prime, 0
    for column in range(matrix.shape[1]):
        pivots = np.flatnonzero(matrix[found:, column])
        if pivots.size:
            row = found + pivots[0]
            matrix[[found, row]] = matrix[[row, found]]
            matrix[found] = matrix[found] * pow(int(matrix[found, column]), -1, prime) % prime
            others = np.arange(len(matrix)) != found
            factors = matrix[others, column]
            matrix[others] = (matrix[others] - factors[:, None] * matrix[found] % prime) % prime
            found += 1
        if found == len(matrix):
            break
    return found


def skeleton_path(widths: Sequence[int], bias: bool, entry: int, into: Path, out: Path) -> Path:
    """The path through an entry that follows chosen edges on both sides.

    Args:
        widths: of the perceptron.
        bias: whether it has biases.
        entry: where the path is fixed.
        into: of every hidden unit, layer by layer, the entry by which it is entered.
        out: of every hidden unit the entry by which it is left.
    """
    kernels, biases = entry_numbers(widths, bias)
    hidden = np.cumsum([0, *widths[1:-1]])
    ends = {}
    for k, (kernel, biased) in enumerate(zip(kernels, biases, strict=True)):
        last = k == len(kernels) - 1
        for (i, j), number in np.ndenumerate(kernel):
            tail = None if k == 0 else int(hidden[k - 1] + i)
            ends[int(number)] = (tail, None if last else int(hidden[k] + j))
        for j, number in enumerate(biased):
            ends[int(number)] = (None, None if last else int(hidden[k] + j))
    path = [entry]
    while ends[path[0]][0] is not None:
        path.insert(0, int(into[ends[path[0]][0]]))
    while ends[path[-1]][1] is not None:
        path.append(int(out[ends[path[-1]][1]]))
    return tuple(path)


def path_slopes(paths: Sequence[Path], weights: np.ndarray, grads: np.ndarray) -> np.ndarray:
    """Gradient with respect to the values of basis paths, by solving the chain rule as it stands.

    With v_p the product of the weights along p, w dL/dw = A (v dL/dv): a linear system with one
    solution, since the paths are a basis and w dL/dw obeys the conservation law.

    Args:
        paths: a basis, m - H of them.
        weights: all entries, [m].
        grads: dL/dw, [m].
    """
    matrix = structure_matrix(paths, len(weights))
    flows, residual, *_ = np.linalg.lstsq(matrix, weights * grads, rcond=None)
    assert np.allclose(matrix @ flows, weights * grads, atol=1e-12), residual
    return flows / np.array([np.prod(weights[list(path)]) for path in paths])
