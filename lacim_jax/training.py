"""Training in one call, its input checked before anything is compiled."""

import functools
import operator
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PRNGKeyArray

from lacim_jax._keywords import names_keywords
from lacim_jax.label_weight import balanced_weight
from lacim_jax.model.checks import check_batch, check_examples
from lacim_jax.model.lacim import Examples, LaCIM
from lacim_jax.model.loops import slow_in_loops
from lacim_jax.objective import lacim_loss
from lacim_jax.starts import held_out_loss, hold_out


class Fitted(NamedTuple):
    """A trained model's variables, and how training went."""

    variables: dict[str, Any]  # {"params": ...}, with other collections that the modules have
    terms: dict[str, np.ndarray]  # of the loss at every step, each shape=[num_steps, ...]
    held_out_loss: np.ndarray  # shape=[num_starts], float64: see `fit`; least for `variables`


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
    num_starts: int = 1,
    held_out: Examples | None = None,
) -> Fitted:
    """Initialises a model and trains it on batches drawn at random, in one compiled loop.

    Models with convolutions are trained on CPU by a compiled step that is called from Python, since
    XLA runs convolutions many times slower inside a loop there.

    Which latents a model finds may depend on where it starts. With several starts each is trained
    in turn by the same compiled program, and the one with the lowest loss on held-out examples of
    the training domains is kept. Starts that diverge are left out. The loss is that of the last
    step, with its weights, and with modules as they are in training: it tells starts apart, and
    does not compare one loss with another.

    The whole training set is checked first: shapes, the range of pixels under the likelihood,
    labels, domains, of which each must have examples (a model with `num_domains=1` takes domains as
    they are: its own loss pools them, and others may compare them). For loops of one's own there
    are `check_examples` and `lacim_loss`.

    Args:
        model: the model to train.
        examples: the training set; see `coded` for labels or domains that are names or codes.
        key: for initialisation, batches and draws; a typed PRNG key, scalar.
        num_steps: how many batches, for each start.
        batch_size: examples of each.
        optimiser: any optax transformation.
        loss: as `lacim_loss` returns it; None for that with the divergence warmed up over the first
            quarter of the steps, and the label weighed by `balanced_weight` of the training set.
        num_starts: how many initialisations, each with batches and draws of its own; the first is
            the one that a single start has.
        held_out: further examples of the training domains, by which starts are told apart. None
            takes one in ten of each domain, at least one of two, away from the training set, where
            there are several starts: no start is trained on these.

    Returns:
        Variables for `predict`, the loss's terms at every step, and the loss of every start on
        held-out examples: NaN where it is not finite, training diverged, or nothing was held out.

    Raises:
        TypeError: if the training set or the held-out one is not made of `Examples`, the key is
            none, or a keyword is unknown.
        ValueError: if the examples do not suit the model, numbers are not positive, there are
            too few to hold any out, the training of every start ends in parameters that are not
            finite; it says from which step on.

    Warns:
        UserWarning: if no start has a finite loss on held-out examples; the first one is kept.

    Example:
        >>> from lacim_jax import MLP, MLPDecoder, MLPEncoder
        >>> model = LaCIM(MLPEncoder((8,)), MLPDecoder((2, 2), (8,)), MLP((2,)), num_domains=2)
        >>> labels = jnp.arange(64) % 2
        >>> images = jnp.tile(labels[:, None, None].astype(jnp.float32), (1, 2, 2))
        >>> data = Examples(images, labels, domains=jnp.arange(64) // 32)
        >>> fitted = fit(model, data, jax.random.key(0), num_steps=20, batch_size=16, num_starts=3)
        >>> fitted.terms["bound"].shape, fitted.held_out_loss.shape
        ((20,), (3,))
    """
    for name, value in (
        ("num_steps", num_steps), ("batch_size", batch_size), ("num_starts", num_starts),
    ):  # fmt: skip
        if not _is_count(value):
            raise ValueError(f"{name} must be a whole number, at least 1, got {value!r}.")
    data = _on_device(examples, "the training set")
    if not hasattr(key, "dtype"):
        raise TypeError(f"key must be a PRNG key, got {key!r}; jax.random.key(0), say.")
    floats = jnp.issubdtype(data.images.dtype, jnp.floating)
    first = jnp.zeros((1, *data.images.shape[1:]), data.images.dtype if floats else jnp.float32)
    init = jax.jit(model.init)

    def start(key: PRNGKeyArray) -> tuple[dict[str, Any], _Keys]:
        init_key, dropout_key, *others = jax.random.split(key, 4)
        rngs = {"params": init_key, "dropout": dropout_key}
        return dict(init(rngs, first, jnp.zeros(1, jnp.int32))), _Keys(*others)

    variables, keys = start(key)
    alone = model.num_domains == 1  # then domains concern the loss alone, if anything

    def checked(data: Examples, check: Callable[..., None]) -> Examples:
        pooled = data._replace(domains=jnp.zeros_like(data.domains))
        check(model, variables, pooled if alone else data)
        return pooled if alone and loss is None else data

    data = checked(data, check_examples)
    # The fifth of the key's children: the first start has four.
    further = jax.random.fold_in(key, 4)
    choice_key, judging_key = jax.random.split(jax.random.fold_in(further, 0))
    if held_out is not None:
        held_out = _named("held_out", checked, _on_device(held_out, "held_out"), check_batch)
    elif num_starts > 1:
        data, held_out = hold_out(data, choice_key)
    objective = _default_loss(model, data, num_steps) if loss is None else loss
    compared = functools.partial(_check_compared, objective, variables, key=keys.noise)
    compared(data)
    judged = None
    if held_out is not None:
        _named("held_out", compared, held_out)
        judged = held_out_loss(objective, held_out, batch_size, judging_key)
    train = _trainer(objective, data, optimiser, num_steps, min(batch_size, len(data.labels)))
    first_start = variables, keys
    starts = (
        start(jax.random.fold_in(further, index)) if index else first_start
        for index in range(num_starts)
    )
    return _best((train(*own) for own in starts), judged)


class _Keys(NamedTuple):
    """Of one start, beside that of its initialisation."""

    order: PRNGKeyArray
    noise: PRNGKeyArray


class _End(NamedTuple):
    """What one start came to."""

    variables: dict[str, Any]
    state: Any  # the loss's, of the last step
    terms: dict[str, np.ndarray]
    failure: str | None  # why it is of no use


def _best(ends: Iterable[_End], judged: Callable[[Any, Any], float] | None) -> Fitted:
    """The end with the least loss, one of them in memory beside the best so far."""
    losses, best, least, failure = [], None, np.inf, None
    for end in ends:
        failure = failure or end.failure
        losses.append(np.nan)
        if end.failure is not None:
            continue
        if judged is not None:
            losses[-1] = judged(end.variables["params"], end.state)
        if best is None or losses[-1] < least:
            best, least = end, np.inf if np.isnan(losses[-1]) else losses[-1]
    if best is None:
        raise ValueError(failure)
    if judged is not None and np.isnan(losses).all():
        warnings.warn(
            "the loss on held-out examples is not finite, so the first start that stayed finite in "
            "training is kept; look at held_out, and at the loss's weights at the last step.",
            stacklevel=4,
        )
    return Fitted(best.variables, best.terms, np.asarray(losses))


def _is_count(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and operator.index(value) >= 1
    except TypeError:
        return False


def _named(name: str, check: Callable[..., Any], *args: Any) -> Any:
    """What a check returns; its error says what was checked."""
    try:
        return check(*args)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _at(step: int, state: Any) -> Any:
    """A loss's state with another step."""
    own = jnp.asarray(step, jnp.int32)
    return (own, *state[1:]) if isinstance(state, tuple) else own


def _state_of(variables: dict[str, Any]) -> Any:
    """The loss's first state: the step, with the collections that the modules have."""
    collections = {name: value for name, value in variables.items() if name != "params"}
    step = jnp.zeros([], jnp.int32)
    return (step, collections) if collections else step


def _default_loss(model: LaCIM, data: Examples, num_steps: int) -> Callable[..., Any]:
    beta = optax.linear_schedule(0.0, 1.0, max(num_steps // 4, 1))
    # Once, of all examples: batches then count alike, whichever labels are in them.
    weight = jax.jit(lambda data: balanced_weight(model, data))(data)
    return lacim_loss(model, beta=beta, label_weight=float(weight))


def _check_compared(
    loss: Callable[..., Any], variables: dict[str, Any], data: Examples, *, key: PRNGKeyArray
) -> None:
    """Lets the loss refuse domains that it does not know: one example of each, not traced."""
    state = _state_of(variables)
    rows = np.unique(np.asarray(data.domains), return_index=True)[1]
    few = jax.tree.map(lambda leaf: leaf[rows], data)
    jax.eval_shape(lambda params: loss(params, state, few, key), variables["params"])


def _trainer(
    loss: Callable[..., Any], data: Examples, optimiser: optax.GradientTransformation,
    num_steps: int, size: int,
) -> Callable[[dict[str, Any], _Keys], _End]:  # fmt: skip
    """Trains from first variables, compiled at the first call and not again for other starts."""
    gradient = jax.grad(loss, has_aux=True)
    init = jax.jit(optimiser.init)

    def step(carry: Any, data: Examples, keys: _Keys, index: jax.Array) -> tuple[Any, Any]:
        params, opt_state, state = carry
        order = jax.random.fold_in(keys.order, index)
        rows = jax.random.randint(order, (size,), 0, len(data.labels))
        batch = jax.tree.map(lambda leaf: leaf[rows], data)
        gradients, (state, terms) = gradient(
            params, state, batch, jax.random.fold_in(keys.noise, index)
        )
        updates, opt_state = optimiser.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state, state), terms

    repeated = _repeated(step, num_steps)

    def train(variables: dict[str, Any], keys: _Keys) -> _End:
        params = variables["params"]
        (params, _, state), terms = repeated(
            (params, init(params), _state_of(variables)), data, keys
        )
        collections = state[1] if isinstance(state, tuple) else {}
        failure = _failure(params, terms, num_steps)
        last = _at(num_steps - 1, state)
        return _End({"params": params, **collections}, last, terms, failure)

    return train


def _repeated(
    step: Callable[..., tuple[Any, Any]], count: int
) -> Callable[[Any, Examples, _Keys], tuple[Any, dict[str, np.ndarray]]]:
    """Takes all steps; returns the carry after them, and the terms of each, [count]."""
    # Data are an argument: as a constant they would be a part of the compiled program.
    one = jax.jit(step, donate_argnums=0)

    @jax.jit
    def all_steps(carry: Any, data: Examples, keys: _Keys) -> tuple[Any, Any]:
        steps = jnp.arange(count, dtype=jnp.int32)
        return jax.lax.scan(lambda carry, index: step(carry, data, keys, index), carry, steps)

    def repeated(carry: Any, data: Examples, keys: _Keys) -> tuple[Any, dict[str, np.ndarray]]:
        if not slow_in_loops(one.trace(carry, data, keys, jnp.zeros([], jnp.int32)).jaxpr):
            carry, terms = all_steps(carry, data, keys)
            return carry, {name: np.asarray(values) for name, values in terms.items()}
        carry, listed = jax.tree.map(jnp.copy, carry), []  # no buffer is donated twice
        for index in range(count):
            carry, terms = one(carry, data, keys, jnp.asarray(index, jnp.int32))
            listed.append(terms)
        terms = jax.device_get(listed)
        return carry, {name: np.stack([each[name] for each in terms]) for name in terms[0]}

    return repeated


def _on_device(examples: Any, name: str) -> Examples:
    if not isinstance(examples, tuple) or len(examples) != len(Examples._fields):
        raise TypeError(
            f"{name} must be Examples(images, labels, domains), got {type(examples).__name__}; "
            "domains say which training domain each came from."
        )
    arrays = [np.asarray(leaf) for leaf in examples]
    for array in arrays:
        if array.dtype.kind in "USO":
            raise ValueError(
                f"examples are numbers, got {array.dtype}; coded(values).codes numbers names "
                "through."
            )
    return Examples(*map(jnp.asarray, arrays))


def _failure(params: Any, terms: dict[str, np.ndarray], num_steps: int) -> str | None:
    lost = np.zeros(num_steps, bool)
    for own in terms.values():
        lost |= ~np.isfinite(own).reshape(num_steps, -1).all(axis=1)
    if not lost.any() and all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(params)):
        return None
    first = int(lost.argmax()) if lost.any() else num_steps - 1
    return (
        f"training must stay finite, but from step {first} on it is not; take a smaller step "
        "size, or clip gradients."
    )
