"""Training in one call, its input checked before anything is compiled."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import PRNGKeyArray

from lacim_jax._keywords import names_keywords
from lacim_jax.label_weight import balanced_weight
from lacim_jax.model.checks import check_examples
from lacim_jax.model.lacim import Examples, LaCIM
from lacim_jax.model.loops import slow_in_loops
from lacim_jax.objective import lacim_loss


class Fitted(NamedTuple):
    """A trained model's variables, and how training went."""

    variables: dict[str, Any]  # {"params": ...}, with other collections that the modules have
    terms: dict[str, np.ndarray]  # of the loss, each shape=[num_steps]


_ADAM = optax.adam(1e-3)


@names_keywords
def fit(
    model: LaCIM,
    examples: Examples,
    key: PRNGKeyArray,
    *,
    num_steps: int = 1000,
    batch_size: int = 128,
    optimiser: optax.GradientTransformation = _ADAM,
    loss: Callable[..., Any] | None = None,
) -> Fitted:
    """Initialises a model and trains it on batches drawn at random, in one compiled loop.

    Models with convolutions are trained on CPU by a compiled step that is called from Python, since
    XLA runs convolutions many times slower inside a loop there.

    The whole training set is checked first: shapes, the range of pixels under the likelihood,
    labels, domains, of which each must have examples (a model with `num_domains=1` takes domains as
    they are: its own loss pools them, and others may compare them). For loops of one's own there
    are `check_examples` and `lacim_loss`.

    Args:
        model: the model to train.
        examples: the training set; see `coded` for labels or domains that are names or codes.
        key: for initialisation, batches and draws; a typed PRNG key, scalar.
        num_steps: how many batches.
        batch_size: examples of each.
        optimiser: any optax transformation.
        loss: as `lacim_loss` returns it; None for that with the divergence warmed up over the first
            quarter of the steps, and the label weighed by `balanced_weight` of the training set.

    Returns:
        Variables for `predict`, and the loss's terms at every step.

    Raises:
        TypeError: if the training set is not made of `Examples`, the key is none, or a keyword is
            unknown.
        ValueError: if the training set does not suit the model, numbers are not positive, or
            training ends in parameters that are not finite; it says from which step on.

    Example:
        >>> from lacim_jax import MLP, MLPDecoder, MLPEncoder
        >>> model = LaCIM(MLPEncoder((8,)), MLPDecoder((2, 2), (8,)), MLP((2,)), num_domains=2)
        >>> labels = jnp.arange(64) % 2
        >>> images = jnp.tile(labels[:, None, None].astype(jnp.float32), (1, 2, 2))
        >>> data = Examples(images, labels, domains=jnp.arange(64) // 32)
        >>> fitted = fit(model, data, jax.random.key(0), num_steps=20, batch_size=16)
        >>> fitted.terms["bound"].shape
        (20,)
    """
    if num_steps < 1 or batch_size < 1:
        raise ValueError(
            f"num_steps and batch_size must be positive, got {num_steps} and {batch_size}."
        )
    if not isinstance(examples, tuple) or len(examples) != len(Examples._fields):
        raise TypeError(
            "the training set must be Examples(images, labels, domains), got "
            f"{type(examples).__name__}; domains say which training domain each came from."
        )
    if not hasattr(key, "dtype"):
        raise TypeError(f"key must be a PRNG key, got {key!r}; jax.random.key(0), say.")
    data = Examples(*map(_on_device, examples))
    init_key, dropout_key, order_key, noise_key = jax.random.split(key, 4)
    rngs = {"params": init_key, "dropout": dropout_key}
    floats = jnp.issubdtype(data.images.dtype, jnp.floating)
    first = jnp.zeros((1, *data.images.shape[1:]), data.images.dtype if floats else jnp.float32)
    variables = dict(jax.jit(model.init)(rngs, first, jnp.zeros(1, jnp.int32)))
    pooled = data._replace(domains=jnp.zeros_like(data.domains))
    alone = model.num_domains == 1  # then domains concern the loss alone, if anything
    check_examples(model, variables, pooled if alone else data)
    if loss is None:
        data = pooled if alone else data
        beta = optax.linear_schedule(0.0, 1.0, max(num_steps // 4, 1))
        # Once, of all examples: batches then count alike, whichever labels are in them.
        weight = jax.jit(lambda data: balanced_weight(model, data))(data)
        loss = lacim_loss(model, beta=beta, label_weight=float(weight))
    params = variables.pop("params")
    start = jnp.zeros([], jnp.int32)
    state = (start, variables) if variables else start
    _check_compared(loss, params, state, data, noise_key)
    gradient = jax.grad(loss, has_aux=True)
    count = len(data.labels)
    size = min(batch_size, count)

    def step(carry: Any, data: Examples, index: jax.Array) -> tuple[Any, Any]:
        params, opt_state, state = carry
        rows = jax.random.randint(jax.random.fold_in(order_key, index), (size,), 0, count)
        batch = jax.tree.map(lambda leaf: leaf[rows], data)
        key = jax.random.fold_in(noise_key, index)
        gradients, (state, terms) = gradient(params, state, batch, key)
        updates, opt_state = optimiser.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state, state), terms

    carry = (params, jax.jit(optimiser.init)(params), state)
    (params, _, state), terms = _repeated(step, carry, data, num_steps)
    _check_finite(params, terms)
    return Fitted({"params": params, **(state[1] if variables else {})}, terms)


def _check_compared(
    loss: Callable[..., Any], params: Any, state: Any, data: Examples, key: PRNGKeyArray
) -> None:
    """Lets the loss refuse domains that it does not know: one example of each, not traced."""
    rows = np.unique(np.asarray(data.domains), return_index=True)[1]
    few = jax.tree.map(lambda leaf: leaf[rows], data)
    jax.eval_shape(lambda params: loss(params, state, few, key), params)


def _repeated(
    step: Callable[..., tuple[Any, Any]], carry: Any, data: Examples, count: int
) -> tuple[Any, dict[str, np.ndarray]]:
    """The carry after all steps, and the terms of each, [count]."""
    # Data are an argument: as a constant they would be a part of the compiled program.
    one = jax.jit(step, donate_argnums=0)
    if not slow_in_loops(one.trace(carry, data, jnp.zeros([], jnp.int32)).jaxpr):

        @jax.jit
        def all_steps(carry: Any, data: Examples) -> tuple[Any, Any]:
            steps = jnp.arange(count, dtype=jnp.int32)
            return jax.lax.scan(lambda carry, index: step(carry, data, index), carry, steps)

        carry, terms = all_steps(carry, data)
        return carry, {name: np.asarray(values) for name, values in terms.items()}
    carry, listed = jax.tree.map(jnp.copy, carry), []  # no buffer is donated twice
    for index in range(count):
        carry, terms = one(carry, data, jnp.asarray(index, jnp.int32))
        listed.append(terms)
    terms = jax.device_get(listed)
    return carry, {name: np.stack([each[name] for each in terms]) for name in terms[0]}


class Codes(NamedTuple):
    """Whole numbers from 0 on, and what each stands for."""

    codes: np.ndarray  # shape=[n], int32
    names: np.ndarray  # shape=[distinct]: names[codes] are the values


def coded(values: ArrayLike | list[Any]) -> Codes:
    """Numbers labels or domains through from 0, whatever they are called.

    Args:
        values: integers or strings, [n]: site codes 10 and 20, or names of classes.

    Returns:
        Codes for `Examples`, in the order of the sorted names, which lead back.

    Raises:
        ValueError: if there are none, they are not one-dimensional, or real numbers, which have no
            classes.

    Example:
        >>> coded(["dog", "cat", "dog"])
        Codes(codes=array([1, 0, 1], dtype=int32), names=array(['cat', 'dog'], dtype='<U3'))
        >>> coded([10, 20, 10]).codes
        array([0, 1, 0], dtype=int32)
    """
    array = np.asarray(values)
    if array.ndim != 1 or not array.size or array.dtype.kind not in "iubUSO":
        raise ValueError(
            "labels and domains are integers or strings of shape [n], at least one, got "
            f"{array.dtype}{list(array.shape)}; use gaussian_likelihood for real-valued labels."
        )
    names, codes = np.unique(array, return_inverse=True)
    return Codes(codes.astype(np.int32), names)


def _on_device(leaf: Any) -> jax.Array:
    array = np.asarray(leaf)
    if array.dtype.kind in "USO":
        raise ValueError(
            f"examples are numbers, got {array.dtype}; coded(values).codes numbers names through."
        )
    return jnp.asarray(array)


def _check_finite(params: Any, terms: dict[str, np.ndarray]) -> None:
    lost = np.asarray(~np.isfinite(np.stack(list(terms.values()))).all(axis=0))
    if lost.any() or not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(params)):
        first = int(lost.argmax()) if lost.any() else len(lost) - 1
        raise ValueError(
            f"training must stay finite, but from step {first} on it is not; take a smaller step "
            "size, or clip gradients."
        )
