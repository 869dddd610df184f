"""What actors ask Ray for reaches it, and with a placement each has a place of its own."""

import collections

from dcasgd_jax.actors import Cluster
from tests.dcasgd_jax.actors.test_coordinator import run

DEATH = {"gradient": 0.06, "step": 0.01}
WANTED = {"num_cpus": 2, "num_gpus": 0.5, "resources": {"host": 1}, "max_concurrency": 1}


def asked_for(ray, kind):
    return [options for name, options in ray.options if name == kind]


def test_resources_and_strategies_reach_every_actor():
    servers = {"scheduling_strategy": "SPREAD"}
    cluster = Cluster(3, num_servers=2, worker_options=WANTED, server_options=servers)
    *_, ray = run(0, cluster=cluster)
    assert asked_for(ray, "GradientWorker") == [WANTED] * 3
    assert asked_for(ray, "ParameterServer") == [{"num_cpus": 0, **servers}] * 2
    assert ray.groups == []


def test_places_are_reserved_for_all_and_kept_by_those_who_come_after():
    for seed in range(3):
        cluster = Cluster(3, num_servers=2, worker_options=WANTED, placement="SPREAD")
        *_, info, ray = run(seed, death=DEATH, cluster=cluster)
        bundle = {"CPU": 2, "GPU": 0.5, "host": 1}
        places = [options["scheduling_strategy"] for _, options in ray.options]
        assert all(place["placement_group"] == ("SPREAD", [bundle] * 3) for place in places)
        # Workers that replace others are put where these were; servers sit beside workers.
        used = collections.Counter(
            options["scheduling_strategy"]["placement_group_bundle_index"]
            for options in asked_for(ray, "GradientWorker")
        )
        assert sorted(used) == [0, 1, 2]
        assert sum(used.values()) == 3 + info.replaced
        beside = [o["scheduling_strategy"]["placement_group_bundle_index"]
                  for o in asked_for(ray, "ParameterServer")]  # fmt: skip
        assert beside == [0, 1] * (1 + info.restored)
        assert ray.groups == []  # given back


def test_servers_that_ask_for_something_have_places_of_their_own():
    cluster = Cluster(2, num_servers=2, server_options={"num_cpus": 1}, placement="PACK")
    *_, ray = run(0, cluster=cluster)
    (places,) = {
        str(options["scheduling_strategy"]["placement_group"]) for _, options in ray.options
    }
    assert places == str(("PACK", [{"CPU": 1}] * 4))
    beside = [o["scheduling_strategy"]["placement_group_bundle_index"]
              for o in asked_for(ray, "ParameterServer")]  # fmt: skip
    assert beside == [2, 3]
