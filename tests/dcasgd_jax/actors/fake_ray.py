"""Ray's interface within one process: any order of arrivals and any deaths, by a generator.

What the coordinator does with them can so be tried hundreds of times; that Ray itself behaves so is
tested beside it, a few times, with real processes.
"""

import math
import types


class RayError(Exception):
    pass


class RayActorError(RayError):
    pass


class Reference:
    """What a call will return; nothing runs before it has to."""

    def __init__(self, call=None, place=None):
        self.call, self.place, self.done = call, place, False
        self.value = self.error = None


class Call:
    def __init__(self, actor, name, args, num_returns):
        self.actor, self.name, self.args = actor, name, args
        self.places = [Reference(self, i if num_returns > 1 else None) for i in range(num_returns)]


class Method:
    def __init__(self, actor, name, num_returns=1):
        self.actor, self.name, self.num_returns = actor, name, num_returns

    def options(self, num_returns):
        return Method(self.actor, self.name, num_returns)

    def remote(self, *args):
        call = Call(self.actor, self.name, args, self.num_returns)
        self.actor.queue.append(call)
        return call.places if self.num_returns > 1 else call.places[0]


class Actor:
    def __init__(self, kind, args, *, has_room):
        self.kind, self.args, self.has_room = kind, args, has_room
        self.instance, self.dead, self.queue = None, False, []

    def __getattr__(self, name):
        return Method(self, name)


class Kind:
    def __init__(self, ray, kind, given=None):
        self.ray, self.kind, self.given = ray, kind, given

    def options(self, **options):
        return Kind(self.ray, self.kind, options)

    def remote(self, *args):
        has_room = self.ray.room > 0
        self.ray.room -= has_room
        self.ray.actors.append(Actor(self.kind, args, has_room=has_room))
        self.ray.options.append((self.kind.__name__, self.given))
        return self.ray.actors[-1]


class FakeRay:
    """Stands where the module `ray` stands.

    `death` tells how probable it is that an actor dies of a method, by the method's name; `room`
    how many actors can start: the others wait for a machine that never comes.
    """

    exceptions = types.SimpleNamespace(RayError=RayError, RayActorError=RayActorError)

    def __init__(self, rng, death, room=math.inf):
        self.rng, self.death, self.actors, self.deaths = rng, death, [], []
        self.room, self.killed = room, []
        self.options, self.groups = [], []
        self.util = types.SimpleNamespace(
            placement_group=self._reserve,
            remove_placement_group=self.groups.remove,
            scheduling_strategies=types.SimpleNamespace(
                PlacementGroupSchedulingStrategy=lambda **given: given
            ),
        )

    def _reserve(self, bundles, strategy):
        self.groups.append((strategy, bundles))
        return self.groups[-1]

    def is_initialized(self):
        return True

    def remote(self, kind):
        return Kind(self, kind)

    def put(self, value):
        reference = Reference()
        reference.value, reference.done = value, True
        return reference

    def kill(self, actor):
        actor.dead = True
        self.killed.append(actor)

    def wait(self, references, num_returns, timeout=None, fetch_local=True):
        possible = [r for r in references if r.done or r.call.actor.has_room]
        if len(possible) < num_returns and timeout is None:
            raise AssertionError("Ray would wait for ever")
        if num_returns == len(references):
            return possible, [r for r in references if r not in possible]
        if possible and not any(r.done for r in possible):
            self._finish(self.rng.choice(possible))
        ready = [r for r in possible if r.done][:num_returns]
        return ready, [r for r in references if r not in ready]

    def get(self, references):
        if isinstance(references, list):
            return [self.get(reference) for reference in references]
        self._finish(references)
        if references.error is not None:
            raise references.error
        return references.value

    def cluster_resources(self):
        return {"CPU": 4.0}

    available_resources = cluster_resources

    def _finish(self, reference):
        if not reference.done and not reference.call.actor.has_room:
            raise AssertionError("Ray would wait for ever")
        while not reference.done:
            self._run(reference.call.actor.queue.pop(0))

    def _run(self, call):
        try:
            results = self._called(call)
        except RayError as error:
            for place in call.places:
                place.error, place.done = error, True
            return
        for place in call.places:
            place.value = results if place.place is None else results[place.place]
            place.done = True

    def _called(self, call):
        args = [self.get(arg) if isinstance(arg, Reference) else arg for arg in call.args]
        actor = call.actor
        if self.rng.random() < self.death.get(call.name, 0.0):
            actor.dead = True
            self.deaths.append(call.name)
        if actor.dead:
            raise RayActorError(f"{actor.kind.__name__} is dead")
        if actor.instance is None:
            actor.instance = actor.kind(*actor.args)
        try:
            return getattr(actor.instance, call.name)(*args)
        except RayActorError:  # what a test has an actor die of
            actor.dead = True
            raise
