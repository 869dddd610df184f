"""Bad input to the methods and to the loop that trains: arrays, data, numbers, arrivals."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import dcasgd_jax
import gsgd_jax
import lacim_jax
import lacim_jax.baselines
from benchmarks.docs.bad_cases.case import LAST, Case
from common import training
from common.data import batches, from_arrays, from_domains, leave_one_out, read_npz
from dcasgd_jax.schedules.checks import StepError

_W = {"w": jnp.ones(2)}
_PARAMS = [jnp.array([[2.0, 3.0]]), jnp.array([[5.0], [7.0]])]
_PIXELS = np.zeros((4, 2, 2, 1), np.uint8)
_IMAGES = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 2, 2)


def _fit(data: Any, **options: Any) -> Any:
    """A run of the training loop; its step is never compiled where the input is bad."""

    def step(state: training.TrainState, batch: Any, key: jax.Array) -> Any:
        del batch, key
        info = training.StepInfo(jnp.where(state.step < 3, 1.0, jnp.inf), {})
        return state._replace(step=state.step + 1), info

    state = training.init_state(_W, optax.identity())
    key = jax.random.key(0)
    settings: dict[str, Any] = {"batch_size": 2, "epochs": 2} | options
    keys = training.Keys(key, key)
    return training.fit(step, state, data, keys=keys, **settings)


def _model(**fields: Any) -> lacim_jax.LaCIM:
    """For two domains, but for what is changed."""
    settings: dict[str, Any] = {"num_domains": 2, "s_dim": 1, "v_dim": 1} | fields
    modules = lacim_jax.MLPEncoder((2,)), lacim_jax.MLPDecoder((2, 2), (2,)), lacim_jax.MLP((2,))
    return lacim_jax.LaCIM(*modules, **settings)


def _examples(**changes: Any) -> Any:
    """Checks examples of two domains, changed, against a model for two."""
    model = _model()
    columns = {"images": _IMAGES, "labels": np.arange(4) % 2, "domains": np.arange(4) // 2}
    shapes = jax.eval_shape(model.init, jax.random.key(0), _IMAGES, columns["domains"])
    # The check looks at their shapes only, and these are not compiled.
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    return lacim_jax.check_examples(model, variables, lacim_jax.Examples(**(columns | changes)))


def _domains(images: np.ndarray, names: tuple[str, ...]) -> Any:
    of = np.arange(len(images)) % 2 if len(names) == 2 else np.zeros(len(images), int)
    return from_domains(images, 0 * of, of, class_names=["digit"], domain_names=names)


def _path_step(gradients: Any) -> Any:
    skeleton = gsgd_jax.choose_skeleton(gsgd_jax.mlp_gauge(_PARAMS), _PARAMS, basis="paths")
    tx = gsgd_jax.gsgd(0.1, skeleton)
    return tx.update(gradients, tx.init(_PARAMS), _PARAMS)


def _compensated(**trees: Any) -> Any:
    tx = dcasgd_jax.delay_compensation(0.04)
    return tx.update(_W, tx.init(_W), **({"params": _W} | trees))


def _simulated(schedule: dcasgd_jax.Schedule, gradient: Any = None) -> Any:
    steps = len(schedule.worker)
    gradient = gradient or (lambda params, batch: params)
    return dcasgd_jax.simulate(gradient, _W, optax.sgd(0.1), schedule, jnp.zeros(steps))


def _trace(folder: Path, change: Callable[[str], str]) -> Any:
    path = folder / "trace.csv"
    dcasgd_jax.write_trace(dcasgd_jax.round_robin(2, 3), path)
    path.write_text(change(path.read_text()))
    return dcasgd_jax.read_trace(path)


def _cut_data(folder: Path) -> Any:
    np.savez(folder / "data.npz", images=_PIXELS)
    (folder / "data.npz").write_bytes((folder / "data.npz").read_bytes()[:-9])
    return read_npz(folder / "data.npz")


_SHAPES = "Shapes, dtypes and trees"
_DATA = "Data"
_NUMBERS = "Hyperparameters"
_ARRIVALS = "Arrivals and stale gradients"

CASES = (
    Case(
        _SHAPES, "labels that are not one an image", "common.data.from_arrays", ValueError,
        lambda _: from_arrays(_PIXELS, np.zeros(3, int), num_classes=2),
    ),
    Case(
        _SHAPES, "pixels that are floating-point", "common.data.from_arrays", TypeError,
        lambda _: from_arrays(_PIXELS / 255, np.zeros(4, int), num_classes=2),
    ),
    Case(
        _SHAPES, "images of another shape than the decoder's", "lacim_jax.check_examples",
        ValueError, lambda _: _examples(images=_IMAGES[:, :1]),
    ),
    Case(
        _SHAPES, "gradients of other parameters, path space", "gsgd_jax.in_path_space", ValueError,
        lambda _: _path_step(dict(enumerate(_PARAMS))),
    ),
    Case(
        _SHAPES, "gradients of another shape, path space", "gsgd_jax.in_path_space", ValueError,
        lambda _: _path_step([jnp.ones((3, 2)), _PARAMS[1]]),
    ),
    Case(
        _SHAPES, "parameters that are whole numbers", "gsgd_jax.choose_skeleton", TypeError,
        lambda _: gsgd_jax.choose_skeleton(
            gsgd_jax.mlp_gauge(_PARAMS), [w.astype(int) for w in _PARAMS], basis="paths"
        ),
    ),
    Case(
        _SHAPES, "inputs of a model that are forgotten", "gsgd_jax.find_gauge", TypeError,
        lambda _: gsgd_jax.find_gauge(lambda params, x: x @ params["w"], _W),
    ),
    Case(
        _SHAPES, "a snapshot of other parameters", "dcasgd_jax.delay_compensation", ValueError,
        lambda _: _compensated(stale_params={"v": jnp.ones(2)}),
    ),
    Case(
        _SHAPES, "a snapshot of another shape", "dcasgd_jax.delay_compensation", ValueError,
        lambda _: _compensated(stale_params={"w": jnp.ones((3, 2))}),
    ),
    Case(
        _SHAPES, "gradients of another shape, simulated", "dcasgd_jax.simulate", ValueError,
        lambda _: _simulated(
            dcasgd_jax.round_robin(2, 3), lambda params, batch: {"w": jnp.ones([])}
        ),
    ),
    Case(
        _SHAPES, "weights that are whole numbers, simulated", "dcasgd_jax.simulate", TypeError,
        lambda _: dcasgd_jax.simulate(
            lambda params, batch: params, jnp.zeros(2, int), optax.sgd(0.1),
            dcasgd_jax.round_robin(2, 3), jnp.zeros(3),
        ),
    ),
    Case(
        _SHAPES, "a list of numbers for the weights", "dcasgd_jax.simulate", TypeError,
        lambda _: dcasgd_jax.simulate(
            lambda params, batch: params, [0.0, 0.0], optax.sgd(0.1),
            dcasgd_jax.round_robin(2, 3), jnp.zeros(3),
        ),
    ),
    Case(
        _DATA, "labels out of range", "common.data.from_arrays", ValueError,
        lambda _: from_arrays(_PIXELS, np.arange(4), num_classes=3),
    ),
    Case(
        _DATA, "labels out of range, LaCIM", "lacim_jax.check_examples", ValueError,
        lambda _: _examples(labels=np.arange(4)),
    ),
    Case(
        _DATA, "no example at all", "common.data.from_arrays", ValueError,
        lambda _: from_arrays(_PIXELS[:0], np.zeros(0, int), num_classes=2),
    ),
    Case(
        _DATA, "fewer examples than a batch", "common.data.batches", ValueError,
        lambda _: batches(_PIXELS, 8, key=None),
    ),
    Case(
        _DATA, "NaN or infinity in images", "common.data.from_domains", ValueError,
        lambda _: _domains(np.full((4, 2, 2), np.inf), ("a", "b")),
    ),
    Case(
        _DATA, "NaN or infinity in what is trained on", "common.training.fit", ValueError,
        lambda _: _fit({"x": np.asarray([0.0, np.nan, 1.0, 2.0])}),
    ),
    Case(
        _DATA, "NaN in images, LaCIM", "lacim_jax.check_examples", ValueError,
        lambda _: _examples(images=_IMAGES * np.nan),
    ),
    Case(
        _DATA, "NaN in parameters", "gsgd_jax.choose_skeleton", ValueError,
        lambda _: gsgd_jax.choose_skeleton(
            gsgd_jax.mlp_gauge(_PARAMS), [w * jnp.nan for w in _PARAMS], basis="paths"
        ),
    ),
    Case(
        _DATA, "a domain without an example, as with one domain only", "lacim_jax.check_examples",
        ValueError, lambda _: _examples(domains=np.zeros(4, int)),
    ),
    Case(
        _DATA, "a domain that was not trained", "lacim_jax.check_examples", ValueError,
        lambda _: _examples(domains=np.arange(4)),
    ),
    Case(
        _DATA, "one domain only, and that left out", "common.data.leave_one_out", ValueError,
        lambda _: leave_one_out(_domains(_PIXELS, ("a",)), "a", jax.random.key(0)),
    ),
    Case(
        _DATA, "no image in any domain but one", "common.data.leave_one_out", ValueError,
        lambda _: leave_one_out(
            _domains(_PIXELS, ("a",))._replace(domain_names=("a", "b")), "a", jax.random.key(0)
        ),
    ),
    Case(
        _DATA, "a data set that was cut short", "common.data.read_npz", ValueError, _cut_data,
    ),
    Case(
        _NUMBERS, "a negative learning rate, path space", "gsgd_jax.gsgd", ValueError,
        lambda _: gsgd_jax.gsgd(-0.1, None),
    ),
    Case(
        _NUMBERS, "a negative learning rate, DC-ASGD", "dcasgd_jax.dcasgd", ValueError,
        lambda _: dcasgd_jax.dcasgd(-0.1, 0.04),
    ),
    Case(
        _NUMBERS, "a negative lambda", "dcasgd_jax.delay_compensation", ValueError,
        lambda _: dcasgd_jax.delay_compensation(-0.04),
    ),
    Case(
        _NUMBERS, "a negative weight of LaCIM's search", "lacim_jax.Search", ValueError,
        lambda _: lacim_jax.Search(weight=-1.0),
    ),
    Case(
        _NUMBERS, "a bound of 0 on LaCIM's log-variances", "lacim_jax.LaCIM", ValueError,
        lambda _: jax.eval_shape(
            _model(log_var_bound=0.0).init, jax.random.key(0), _IMAGES, np.arange(4) // 2
        ),
    ),
    Case(
        _NUMBERS, "an encoder with the training prior in it, CSG",
        "lacim_jax.baselines.csg_loss", ValueError,
        lambda _: lacim_jax.baselines.csg_loss(_model(num_domains=1, correlated_prior=True)),
    ),
    Case(
        _NUMBERS, "a bound on steps that allows none", "gsgd_jax.in_path_space", ValueError,
        lambda _: gsgd_jax.in_path_space(optax.sgd(0.1), None, max_ratio=0.5),
    ),
    Case(
        _NUMBERS, "a loss that is not finite, where that is no result", "common.training.fit",
        training.DivergedError,
        lambda _: _fit(jnp.zeros(4), execution=training.Execution(on_divergence="raise")), LAST,
    ),
    Case(
        _ARRIVALS, "no snapshot", "dcasgd_jax.delay_compensation", ValueError,
        lambda _: _compensated(),
    ),
    Case(
        _ARRIVALS, "no snapshot, path space", "gsgd_jax.in_path_space", ValueError,
        lambda _: (
            tx := gsgd_jax.in_path_space(
                optax.sgd(0.1),
                gsgd_jax.choose_skeleton(gsgd_jax.mlp_gauge(_PARAMS), _PARAMS, basis="paths"),
                stale_gradients=True,
            )
        ).update(_PARAMS, tx.init(_PARAMS), _PARAMS),
    ),
    Case(
        _ARRIVALS, "a schedule with a worker that is not there", "dcasgd_jax.simulate", StepError,
        lambda _: _simulated(
            dataclasses.replace(dcasgd_jax.round_robin(3, 3), num_workers=2)
        ),
    ),
    Case(
        _ARRIVALS, "a clock that goes back", "dcasgd_jax.from_arrivals", StepError,
        lambda _: dcasgd_jax.from_arrivals([0, 1], [2.0, 1.0]),
    ),
    Case(
        _ARRIVALS, "a trace with a worker that is not there", "dcasgd_jax.read_trace", ValueError,
        lambda folder: _trace(folder, lambda text: text.replace("workers=2", "workers=1")),
    ),
    Case(
        _ARRIVALS, "a trace that was cut short", "dcasgd_jax.read_trace", ValueError,
        lambda folder: _trace(folder, lambda text: text[: text.rindex("0,")]),
    ),
)  # fmt: skip
