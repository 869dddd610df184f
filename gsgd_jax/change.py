"""Going over to another skeleton during training: when, and what becomes of the optimiser."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gsgd_jax._factors import Group
from gsgd_jax._precision import cast_like, check_choice
from gsgd_jax.coordinates.balanced import Balanced
from gsgd_jax.coordinates.frame import Frame, multiplied
from gsgd_jax.coordinates.node_vectors import spread
from gsgd_jax.coordinates.paths import coordinates_of
from gsgd_jax.coordinates.protocol import Coordinates
from gsgd_jax.coordinates.section import Section
from gsgd_jax.coordinates.skeleton import Skeleton, check_skeleton, edge_ends
from gsgd_jax.coordinates.skeleton_chart import skeleton_chart
from gsgd_jax.gauge import GROUND, Gauge
from gsgd_jax.tracing.rows import exponent_rows
from gsgd_jax.transform import PathSpaceState, first_state

Moments = Literal["same", "gradients", "reset"]


def skeleton_margin(params: optax.Params, skeleton: Skeleton) -> jax.Array:
    r"""How strong the weakest entry of a skeleton is beside its best alternative, in 0 ... 1.

    The in-edge of node h is compared with the other ways into it, its out-edge with the other ways
    out of it, as values of paths that are otherwise the same:

        min_h min( |α_h| / max_{head(e) = h} |α_tail(e) w_e|,
                   |β_h| / max_{tail(e) = h} |w_e β_head(e)| ).

    An entry counts as 1 where nothing but zeros goes the same way: there is no better one.
    Rescaling does not change it. At 1 every node is entered and left along its strongest way. As it
    nears 0, some skeleton entry is about to cross zero, which the guard `max_ratio` of
    `in_path_space` prevents: time to choose anew from the present weights, and to go on with
    `change_skeleton`.

    Args:
        params: a parameter tree.
        skeleton: of its gauge, of either basis.

    Returns:
        Shape [], in the working dtype; 1 where there is no node. Works under jit.

    Raises:
        TypeError: if the skeleton is none.
        ValueError: if the tree is not the gauge's.

    Example:
        >>> from gsgd_jax import choose_skeleton, mlp_gauge
        >>> params = [jnp.array([[2.0], [4.0]]), jnp.array([[5.0, 1.0]])]
        >>> gauge = mlp_gauge(params)
        >>> diagonal = choose_skeleton(gauge, params, basis="paths")
        >>> skeleton_margin(params, diagonal)  # entered by 2, where 4 is
        Array(0.5, dtype=float32)
        >>> largest = choose_skeleton(gauge, params, basis="paths", rule="largest")
        >>> skeleton_margin(params, largest)
        Array(1., dtype=float32)
    """
    check_skeleton(skeleton, "skeleton_margin")
    gauge = skeleton.gauge
    at = skeleton_chart(params, Skeleton(gauge, skeleton.in_edges, skeleton.out_edges))
    tail, head, weights = at.tail, at.head, gauge.leaves(params)
    strongest = {"in": jnp.zeros_like(tail), "out": jnp.zeros_like(head)}
    for i, view in enumerate(skeleton.leaf_views):
        if view is not None:
            size = jnp.abs(weights[i].astype(at.dtype))
            ways = (
                ("in", view.heads, spread(jnp.abs(tail), view.tails, size)),
                ("out", view.tails, spread(jnp.abs(head), view.heads, size)),
            )
            for side, ids, strength in ways:
                if ids is not None:
                    axes = tuple(a for a in range(size.ndim) if ids.shape[a] != size.shape[a])
                    most = jnp.max(strength, axis=axes).ravel()
                    strongest[side] = strongest[side].at[ids.ravel()].max(most)
    # A node that zeros alone read, or enter, has no better way than its own.
    ratios = [
        jnp.where(most[:-1] == 0, 1, jnp.abs(own[:-1]) / jnp.where(most[:-1] == 0, 1, most[:-1]))
        for own, most in ((tail, strongest["in"]), (head, strongest["out"]))
    ]
    return jnp.min(jnp.concatenate(ratios), initial=1.0)


def change_skeleton(
    inner: optax.GradientTransformation,
    state: PathSpaceState,
    params: optax.Params,
    *,
    old: Coordinates | Group,
    new: Coordinates | Group,
    moments: Moments = "same",
) -> PathSpaceState:
    r"""The state with which `in_path_space(inner, new)` goes on where `old` left off.

    The weights stay as they are, so the function does not change. Counters, schedules, injected
    hyperparameters and keys stay too, and so does the count of bounded steps. What the inner
    transformation remembers of each path value (momentum, second moments) speaks of the old
    coordinates:

    - "same": it is kept at entries whose slope is the same in both (entries on neither skeleton,
      with the same way in and out, and all entries outside the group; with sections and balanced
      coordinates, entries whose factor Π_h c_h^k_eh is the same), and reset to what `inner.init`
      gives at all others. Works for any transformation; what it remembers of a leaf in another
      shape (a norm, factors) is kept where all entries of the leaf are unchanged. Adam then
      corrects its bias by the count that it has kept, not by the entry's own, so that its next
      steps there are longer than usual: with its defaults up to 6.6 times, twelve steps on.
    - "gradients": it is carried over as a gradient is, Σ_e m_e dv_e being the same for all changes
      of the weights. Nothing is lost then, provided that all that is remembered is linear in past
      gradients: momentum and Nesterov's, not second moments.
    - "reset": it is reset everywhere.

    Both skeletons must have been chosen for one gauge. Which of its nodes they leave out, as dead
    or constant, may differ: to a node that only one of them has, all ways have changed.

    The new skeleton is another static argument, so a jitted step is compiled again. Balanced
    coordinates may be changed for themselves: the frame is then found anew, from the present
    weights, and the step is not compiled again.

    Args:
        inner: as given to `in_path_space`.
        state: of `in_path_space(inner, old)`; where that is an element of a chain or wrapped, its
            own part of the state.
        params: where training is, concrete or traced.
        old: the skeleton left, or the section, or the group for its balanced coordinates.
        new: what is taken in its place, of the same gauge or group.
        moments: "same", "gradients" or "reset".

    Returns:
        A state for `in_path_space(inner, new)`.

    Raises:
        ValueError: if the gauges or groups differ, the option is unknown, or moments are to be
            carried over that `optax.masked` has thinned out.

    Example:
        >>> from gsgd_jax import choose_skeleton, in_path_space, mlp_gauge
        >>> params = [jnp.array([[1.0]]), jnp.array([[0.1, 2.0]])]
        >>> gauge, inner = mlp_gauge(params), optax.sgd(0.1, momentum=0.9)
        >>> old = choose_skeleton(gauge, params, basis="paths")
        >>> state = in_path_space(inner, old).init(params)
        >>> if skeleton_margin(params, old) < 0.1:  # 0.1 is on it, where 2.0 could be
        ...     new = choose_skeleton(gauge, params, basis="paths", rule="largest")
        ...     state = change_skeleton(inner, state, params, old=old, new=new, moments="gradients")
    """
    old, new = coordinates_of(old), coordinates_of(new)
    one, other = (s.whole if isinstance(s, Skeleton) else _group(s) for s in (old, new))
    if one != other:
        raise ValueError(
            f"both skeletons must be of one gauge, or sections of one group, got {one!r} and "
            f"{other!r}; moments of other parameters mean nothing here: begin with a fresh state."
        )
    check_choice("moments", moments, get_args(Moments))
    fresh = first_state(inner, params, new)
    leaves, structure = jax.tree.flatten(state.inner_state)
    owners = _owners(inner, state.inner_state, params, numbered=moments != "reset")
    mine = [place for place, owner in enumerate(owners) if owner >= 0]
    if moments == "gradients":
        change = _Change(old, new, state.frame, fresh.frame)
        count = len(one.names)
        for start in range(0, len(mine), count):  # one tree of moments after another
            places = mine[start : start + count]
            carried = _carry([leaves[place] for place in places], params, change)
            for place, leaf in zip(places, carried, strict=True):
                leaves[place] = cast_like(leaf, leaves[place])
    else:
        starts = jax.tree.leaves(fresh.inner_state)
        change = _Change(old, new, state.frame, fresh.frame)
        kept = _unchanged(change, params) if moments == "same" else None
        for place in mine:
            start, held = starts[place], leaves[place]
            same = jnp.zeros([], bool) if kept is None else kept[owners[place]]
            if jnp.shape(same) != jnp.shape(held):
                same = same.all()  # of a whole leaf: its norm, say, or sums over its rows
            leaves[place] = jnp.where(same, held, start)
    return fresh._replace(inner_state=jax.tree.unflatten(structure, leaves), bounded=state.bounded)


class _Change(NamedTuple):
    """From which coordinates to which, with the frames of both."""

    old: Coordinates
    new: Coordinates
    before: Any
    after: Any


def _group(coordinates: Coordinates) -> Group:
    """The group of coordinates that know it."""
    assert isinstance(coordinates, Balanced | Section), "skeletons have a gauge"
    return coordinates.group


def _owners(
    inner: optax.GradientTransformation,
    state: optax.OptState,
    params: optax.Params,
    *,
    numbered: bool,
) -> list[int]:
    """Of every leaf of a state the number of the parameter that it belongs to, -1 for none.

    Raises:
        ValueError: if numbers are asked for and `optax.masked` hides some parameters.
    """
    structure = jax.tree.structure(params)
    numbers = jax.tree.unflatten(structure, range(structure.num_leaves))
    hidden = [
        leaf
        for leaf in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, optax.MaskedNode))
        if isinstance(leaf, optax.MaskedNode)
    ]
    if hidden and numbered:
        raise ValueError(
            "moments are carried over as whole trees, but the inner transformation remembers only "
            "some parameters (optax.masked, optax.partition); take moments='reset'."
        )
    owners = optax.tree.map_params(
        inner,
        lambda _, *number: number[0] if number else 0,
        state,
        *([numbers] if numbered else []),
        transform_non_params=lambda _: -1,
    )
    return jax.tree.leaves(owners)


def _carry(memory: list[jax.Array], params: optax.Params, change: _Change) -> list[jax.Array]:
    """A gradient with respect to the old path values, as one with respect to the new ones."""
    values, pull = jax.vjp(lambda params: change.old.at(params, change.before).values(), params)
    like = jax.tree.leaves(values)
    # Entries of the tree are no coordinates of the function; a weight decay may have left some.
    fixed = _fixed(change.old)
    tree = _marks([np.shape(leaf) for leaf in like], fixed)
    memory = [cast_like(jnp.where(t, 0, m), v) for t, m, v in zip(tree, memory, like, strict=True)]
    (grads,) = pull(jax.tree.unflatten(jax.tree.structure(params), memory))
    return jax.tree.leaves(change.new.at(params, change.after).slopes(grads))


def _fixed(coordinates: Coordinates) -> np.ndarray:
    """The numbers of the entries that have no coordinate of their own."""
    if isinstance(coordinates, Section):
        return coordinates.entries
    return coordinates.in_edges if isinstance(coordinates, Skeleton) else np.zeros(0, np.int64)


def _unchanged(change: _Change, params: optax.Params) -> Sequence[np.ndarray | jax.Array]:
    """Of every leaf the entries at which dL/dv is the same in both coordinates, bool."""
    old, new = change.old, change.new
    if isinstance(old, Section) and isinstance(new, Section):
        return _same_factors(old, new)
    if isinstance(old, Skeleton) and isinstance(new, Skeleton):
        return _same_ways(old, new)
    if isinstance(old, Balanced) and isinstance(new, Balanced):
        return _same_frames(change.before, change.after, params)
    one, other = change.old.at(params, change.before), change.new.at(params, change.after)
    ones = jax.tree.map(jnp.ones_like, params)
    slopes = zip(*(jax.tree.leaves(at.slopes(ones)) for at in (one, other)), strict=True)
    return [a == b for a, b in slopes]


def _same_frames(before: Frame, after: Frame, params: optax.Params) -> list[jax.Array]:
    """Of every leaf the entries whose factor is the same in both frames."""
    same = []
    for leaf, one, other in zip(jax.tree.leaves(params), before.parts, after.parts, strict=True):
        ones = jnp.ones(np.shape(leaf), before.scales.dtype)
        same.append(multiplied(ones, one) == multiplied(ones, other))
    return same


def _same_ways(old: Skeleton, new: Skeleton) -> list[np.ndarray]:
    """Off both skeletons, the entries whose paths run the same way in and out."""
    gauge = old.whole
    outside = [_outside(old.gauge, i) & _outside(new.gauge, i) for i in range(len(gauge.names))]
    if old.basis != new.basis:
        return outside
    inside = _same_way(old, new, "in_edges")
    skeletons = [(s.in_edges, s.out_edges) for s in (old, new)]
    if old.basis == "paths":
        before, after = inside, _same_way(old, new, "out_edges")
        apart = np.concatenate([edges for pair in skeletons for edges in pair])
    else:
        scales = [
            s.of_whole(np.ones(s.gauge.num_nodes) if s.tree_scales is None else s.tree_scales, 1.0)
            for s in (old, new)
        ]
        inside = inside & np.append(scales[0] == scales[1], True)
        before = after = inside
        apart = np.concatenate([pair[0] for pair in skeletons])
    on_either = _marks(gauge.shapes, apart)
    return [
        outside[i]
        | (np.broadcast_to(before[gauge.tails[i]] & after[gauge.heads[i]], s) & ~on_either[i])
        for i, s in enumerate(gauge.shapes)
    ]


def _same_factors(old: Section, new: Section) -> list[np.ndarray]:
    """Off the pivots of both, the entries whose factor is one function of the weights."""
    rows = exponent_rows(old.group)
    # log c = K⁻¹ (log t - log |w_S|), as a row of coefficients a node: of the pivots', and of 1.
    pivots = np.union1d(old.entries, new.entries)
    apart = np.zeros((rows.num_nodes, len(pivots) + 1))
    for section, sign in ((old, 1.0), (new, -1.0)):
        places = np.append(np.searchsorted(pivots, section.entries), len(pivots))
        logs = np.log(section.magnitudes)[:, None]
        own = np.concatenate([section.inverse, section.inverse @ logs], axis=1)
        apart[np.ix_(section.nodes, places)] += sign * own
    # A combination of rows vanishes where, and but for coincidence only where, one of numbers does.
    numbers = apart @ np.random.default_rng(0).normal(size=(apart.shape[1], 2))
    sums = np.einsum("es,esk->ek", rows.powers, numbers[rows.nodes])
    same = (np.abs(sums) < 1e-8).all(1)
    same[pivots] = False
    return _marks(old.group.shapes, np.flatnonzero(same))


def _same_way(old: Skeleton, new: Skeleton, field: Literal["in_edges", "out_edges"]) -> np.ndarray:
    """Whether the way from a node to ground is the same along both; bool [whole nodes + 1]."""
    # A node that is left out is ground there: its way ends at once, without an edge.
    one, two = (s.of_whole(getattr(s, field), GROUND) for s in (old, new))
    ends = edge_ends(old.whole, one)[0 if field == "in_edges" else 1]
    following = np.append(ends, GROUND)
    same = np.append(one == two, True)  # ground, -1, is the last
    for _ in range(len(one).bit_length()):
        same, following = same & same[following], following[following]
    return same


def _marks(shapes: Sequence[tuple[int, ...]], edges: np.ndarray) -> list[np.ndarray]:
    """Masks of leaves of these shapes, true at the entries of the given numbers."""
    ends = np.cumsum([int(np.prod(shape, dtype=np.int64)) for shape in shapes], dtype=np.int64)
    flat = np.zeros(ends[-1] if len(shapes) else 0, bool)
    flat[edges] = True
    parts = np.split(flat, ends[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=False)]


def _outside(gauge: Gauge, leaf: int) -> np.ndarray:
    """Entries that the group does not move."""
    still = (gauge.tails[leaf] == GROUND) & (gauge.heads[leaf] == GROUND)
    return np.broadcast_to(still, gauge.shapes[leaf])
