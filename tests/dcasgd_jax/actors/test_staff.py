"""Actors for whom there is no room, or no longer: the run goes on, or ends with all it has done."""

import pytest

from dcasgd_jax.actors import Checkpoint, Cluster, read_recording, worker
from tests.dcasgd_jax.actors.fake_ray import FakeRay, RayActorError
from tests.dcasgd_jax.actors.test_coordinator import WORKERS, assert_repeated, run


def test_workers_without_room_leave_their_work_to_the_others():
    """A machine that is gone for good takes its worker with it, not the run."""
    for seed in (0, 1, 3):
        params, info, ray = run(seed, death={"gradient": 0.05}, room=WORKERS + 1)
        assert info.replaced == len(ray.deaths) in (1, 2)
        assert_repeated(params, info)
        last = info.schedule.worker[-3:].tolist()
        assert len(set(last)) <= WORKERS - info.replaced


@pytest.mark.parametrize("method", ["gradient", "step"])
def test_where_there_is_no_room_left_what_is_done_is_kept(method, tmp_path):
    path = tmp_path / "run.npz"
    message = r"did not start in 0.5 s: the cluster has CPU=4"
    cluster = Cluster(WORKERS, start_timeout=0.5)
    checkpoint = Checkpoint(path, every=10)
    with pytest.raises(TimeoutError, match=message):
        run(
            3, death={method: 0.2}, room=WORKERS + 1, cluster=cluster, checkpoint=checkpoint,
        )  # fmt: skip
    done = read_recording(path).batch.size if path.exists() else 0
    assert done % 10 == 0 if method == "step" else done > 0
    params, info, _ = run(4, checkpoint=checkpoint)
    assert_repeated(params, info)


def test_a_stop_before_anything_is_there_waits_for_nothing(tmp_path, monkeypatch):
    def wait(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeRay, "wait", wait)
    with pytest.raises(KeyboardInterrupt):
        run(0, room=0, checkpoint=tmp_path / "run.npz")
    assert not list(tmp_path.iterdir())


def test_a_worker_that_only_seemed_dead_gives_its_place_back(monkeypatch):
    calls = []

    def gradient(self, *args):
        calls.append(self)
        if len(calls) == 4:
            raise RayActorError("the network was away")
        return whole(self, *args)

    whole = worker.GradientWorker.gradient
    monkeypatch.setattr(worker.GradientWorker, "gradient", gradient)
    params, info, ray = run(0)
    assert info.replaced == 1
    assert ray.killed.count(ray.killed[0]) == 2  # as it was replaced, and with all at the end
    assert ray.killed[0].instance is calls[3]
    assert_repeated(params, info)
