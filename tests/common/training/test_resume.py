"""A run killed at any moment and resumed ends with the bits of one that never stopped."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from common.seeds import streams
from common.training import Execution, Keys, fit, init_state, train_step
from common.training.checkpoints import Checkpoints
from common.training.classification import classification_metrics, cross_entropy_loss, evaluator
from common.training.course import Course
from tests.compiled import as_users_do

# The optimiser below is optax's Adam; the bits are those of users, in processes of their own too.
pytestmark = pytest.mark.usefixtures("standard_promotion", "optimised")

ROOT = Path(__file__).resolve().parents[3]


def train(folder, *, epochs=4, batch_size=8, stop_after=None, seed=0):
    """A small run with augmentation noise, checkpointed after every chunk of three steps.

    Without a folder there are no checkpoints.
    `stop_after` raises in the middle, as a crash would, after so many chunks.
    """
    keys = streams(seed)
    inputs = jax.random.normal(keys.data, (64, 4))
    data = (inputs, (inputs @ jax.numpy.eye(4, 3)).argmax(-1))
    params = {"w": 0.1 * jax.random.normal(keys.init, (4, 3))}

    def apply(params, inputs):
        return inputs @ params["w"]

    def loss_fn(params, model_state, batch, key):
        noisy = (batch[0] + 0.1 * jax.random.normal(key, batch[0].shape), batch[1])
        return cross_entropy_loss(apply)(params, model_state, noisy, key)

    class Counting(Checkpoints):
        saved = 0

        def save(self, step, state, notes, **options):
            super().save(step, state, notes, **options)
            self.saved += 1
            if self.saved == stop_after:
                raise KeyboardInterrupt

    tx = optax.adam(optax.cosine_decay_schedule(0.05, 32))
    with contextlib.nullcontext() if folder is None else Counting(folder) as checkpoints:
        return fit(
            train_step(loss_fn, tx), init_state(params, tx), data,
            keys=Keys(keys.order, keys.noise), batch_size=batch_size, epochs=epochs,
            evaluate=evaluator(classification_metrics(apply), data), checkpoints=checkpoints,
            execution=Execution(chunk=3),
        )  # fmt: skip


def assert_same(found, wanted):
    jax.tree.map(np.testing.assert_array_equal, found.state, wanted.state)
    assert found.curve.keys() == wanted.curve.keys()
    jax.tree.map(np.testing.assert_array_equal, found.curve, wanted.curve)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_a_resumed_course_has_the_losses_of_the_epoch_under_way_to_the_bit(dtype):
    losses = [np.random.default_rng(i).normal(size=3).astype(jnp.dtype(dtype)) for i in (0, 1)]
    whole = Course(6, np.asarray(-1))
    whole.add(losses[0])
    resumed = Course.from_notes(json.loads(json.dumps(whole.notes())), 6)
    for course in (whole, resumed):
        course.add(losses[1])
        assert {part.dtype for part in course.losses} == {jnp.dtype(dtype)}
        course.end_epoch({})
    np.testing.assert_array_equal(resumed.rows[0]["loss"], whole.rows[0]["loss"])


@pytest.fixture(scope="module")
def wanted():
    """The run that never stopped."""
    with jax.numpy_dtype_promotion("standard"), as_users_do():
        return train(None)


@pytest.mark.parametrize("stop_after", [1, 2, 3, 7])
def test_a_crash_between_any_two_chunks_changes_no_bit(tmp_path, stop_after, wanted):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "broken", stop_after=stop_after)
    assert_same(train(tmp_path / "broken"), wanted)


def test_a_finished_run_can_be_lengthened(tmp_path):
    wanted = train(None, epochs=5)
    train(tmp_path / "short", epochs=2)
    assert_same(train(tmp_path / "short", epochs=5), wanted)


def test_a_finished_run_cannot_be_shortened(tmp_path):
    train(tmp_path, epochs=2)
    with pytest.raises(ValueError, match="of 2 epochs, more than the 1 asked for"):
        train(tmp_path, epochs=1)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    train(tmp_path, epochs=1)
    with pytest.raises(ValueError, match=r"another run, which had batch_size 8 \(now 16\)"):
        train(tmp_path, batch_size=16)
    with pytest.raises(ValueError, match="another run, which had order"):
        train(tmp_path, seed=1)


SAVES_WHEN_TOLD = """
import sys, numpy, pathlib
from common.training.checkpoints import Checkpoints
from tests.common.training.test_resume import train

save = Checkpoints.save

def saving(self, step, *arguments, **options):
    sys.stdin.readline()
    save(self, step, *arguments, **options)
    print("saved", step, flush=True)

Checkpoints.save = saving
found = train(pathlib.Path(sys.argv[1]), epochs=24)
numpy.savez(sys.argv[2], w=found.state.params["w"], loss=found.curve["loss"])
"""


def test_sigkill_at_any_moment_changes_no_bit(tmp_path):
    """Kills the process at moments that do not depend on where it is, until it gets through.

    It saves a checkpoint when it is told to, so that it is never over before it is killed; where
    in training and saving the next one it then is, is left to the machine.
    """
    jax.clear_caches()  # else programs that other tests compiled without optimisation are used
    wanted = train(None, epochs=24)
    folder, result = tmp_path / "killed", tmp_path / "result.npz"
    # Without the tests' strict settings, which have no say in what is computed.
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "false"
    }  # fmt: skip
    for saves in (0, 2, 9, None):
        with subprocess.Popen(
            [sys.executable, "-c", SAVES_WHEN_TOLD, str(folder), str(result)],
            env=environment, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            assert process.stdin is not None
            assert process.stdout is not None
            if saves is None:
                process.communicate()
                assert process.returncode == 0
            else:
                process.stdin.write("\n" * (saves + 1))
                process.stdin.flush()
                for _ in range(saves):
                    assert process.stdout.readline().startswith("saved")
                process.send_signal(signal.SIGKILL)
    with np.load(result) as found:
        np.testing.assert_array_equal(found["w"], wanted.state.params["w"])
        np.testing.assert_array_equal(found["loss"], wanted.curve["loss"])
