"""Which experiments there are, and what an experiment is.

An experiment is one module in a wing of this package, named for what it measures. Its docstring
opens with the claim, then cost, hardware and command. It reads like this::

    \"\"\"Claim in one line: this is what `python -m benchmarks` lists.

    Cost, hardware, command, source of the published figure.
    \"\"\"

    @dataclasses.dataclass(frozen=True)
    class Settings:
        epochs: int = 10                       # every number the experiment depends on

    PRESETS = {"smoke": Settings(), "cpu": Settings(...), "day": ..., "full": ...}

    def run(settings: Settings, context: Context) -> Iterator[Record]:
        for seed in context.seeds:
            yield from context.stages.of(f"seed {seed}", lambda: train(settings, seed))

    def train(settings: Settings, seed: int) -> Iterator[Record]:
        keys = streams(seed)                   # common.seeds: init, order, noise, delay apart
        ...
        yield Record(method="gsgd", setting={"learning_rate": 0.1}, seed=seed,
                     metrics={"test_accuracy": 0.97}, curve={"epoch": [...], ...},
                     wall_time=seconds)

    def tables(records: Sequence[Record]) -> str:   # Markdown, from records only
    def plots(records: Sequence[Record], out: Path) -> list[Path]:   # PNG files, likewise
    CAPTIONS = {"curves.png": "What to see in this figure."}

Each record is written the moment it is yielded, so an interrupted run keeps what it finished; its
stages (`benchmarks.harness.stages`) are what a later run need not compute again.
"""

import ast
import dataclasses
import difflib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from jax.sharding import Mesh

from benchmarks.harness.stages import Stages
from common.progress import Progress
from common.results.records import Record, json_ready

MODULES = {
    "gsgd_mlp": "path_space.mlp",
    "gsgd_invariance": "path_space.invariance",
    "gsgd_rescaled_start": "path_space.rescaled_start",
    "gsgd_cifar10": "path_space.cifar10",
    "gsgd_sequence": "path_space.sequence",
    "gsgd_control": "path_space.control",
    "gsgd_delay": "together.delay_in_path_space",
    "gsgd_conditioning": "path_space.rescaled.conditioning",
    "gsgd_stability": "path_space.stability",
    "gsgd_architectures": "path_space.architectures.counts",
    "gsgd_speed": "path_space.speed",
    "dcasgd_digits": "delay.digits",
    "dcasgd_cifar10": "delay.cifar10",
    "dcasgd_imagenet": "delay.imagenet",
    "dcasgd_delay_tolerance": "delay.tolerance",
    "dcasgd_lambda_sweep": "delay.lambda_sweep",
    "dcasgd_hessian_ladder": "delay.ladder",
    "delayed_language_model": "delay.language.delayed_model",
    "dcasgd_speed": "delay.speed",
    "lacim_colored_digits": "latent.colored_digits",
    "lacim_flip": "latent.flip",
    "lacim_identifiability": "latent.identifiability",
    "lacim_baselines": "latent.baselines",
    "lacim_selection": "latent.selection",
    "lacim_pseudo_labels": "latent.pseudo_labels",
    "lacim_pacs": "latent.styles.pacs",
    "lacim_spurious_pacs": "latent.styles.spurious_pacs",
    "lacim_fonts": "latent.styles.fonts",
    "lacim_reference": "latent.colored.reference",
    "lacim_pictures": "latent.pictures",
    "lacim_speed": "latent.speed",
    "preemption": "soak.preemption",
    "killed_commands": "soak.killed_commands",
}
"""Where each experiment stands in this package, in the order in which they are listed."""

NAMES = tuple(MODULES)
"""Every experiment by its name on the command line and in records."""

TITLES = {
    "gsgd_mlp": "Path space: digits",
    "gsgd_invariance": "Path space: one function, trained twice",
    "gsgd_rescaled_start": "Path space: rescaled starts",
    "gsgd_cifar10": "Path space: images",
    "gsgd_sequence": "Path space: sentences",
    "gsgd_control": "Path space: control",
    "gsgd_delay": "Path space under delay",
    "gsgd_conditioning": "Path space: the best conditioned copy",
    "gsgd_stability": "Path space: overflows on either side",
    "gsgd_architectures": "Path space: the groups of published networks",
    "gsgd_speed": "Path space: what it costs",
    "dcasgd_digits": "Delay: digits",
    "dcasgd_cifar10": "Delay: CIFAR-10",
    "dcasgd_imagenet": "Delay: ImageNet's setting",
    "dcasgd_delay_tolerance": "Delay: how much is borne",
    "dcasgd_lambda_sweep": "Delay: strength of compensation",
    "dcasgd_hessian_ladder": "Delay: the Hessian and its stand-ins",
    "delayed_language_model": "Delay: a language model",
    "dcasgd_speed": "Delay: speed of the simulator",
    "lacim_colored_digits": "Latent causes: coloured digits",
    "lacim_flip": "Latent causes: a flipped correlation",
    "lacim_identifiability": "Latent causes: identifiability",
    "lacim_baselines": "Latent causes: beside its baselines",
    "lacim_selection": "Latent causes: chosen without an oracle",
    "lacim_pseudo_labels": "Latent causes: pseudo-labels",
    "lacim_pacs": "Latent causes: PACS",
    "lacim_spurious_pacs": "Latent causes: PACS, label tied to style",
    "lacim_fonts": "Latent causes: a font a domain",
    "lacim_reference": "Latent causes: beside the authors' code",
    "lacim_pictures": "Latent causes: what s and v look like",
    "lacim_speed": "Latent causes: speed",
    "preemption": "Killed runs",
    "killed_commands": "Killed commands",
}
"""What each experiment is called where it is read about."""

_ROOT = Path(__file__).resolve().parent.parent

DEMO = ("gsgd_mlp", "dcasgd_digits", "lacim_colored_digits")
"""What `python -m benchmarks demo` runs: one experiment for each method."""

TIMED = ("gsgd_speed", "dcasgd_speed", "lacim_speed")
"""Experiments that time programs against each other: alone on the machine."""

ONE_SEED = (*TIMED, "gsgd_stability", "gsgd_architectures")
"""Experiments that repeat what they measure within a seed: "all" runs them from one."""

LEAST_SEEDS = {
    "gsgd_mlp": 10, "lacim_selection": 10, "lacim_pseudo_labels": 10, "lacim_identifiability": 5,
    "lacim_fonts": 5, "killed_commands": 8, "dcasgd_digits": 10, "dcasgd_lambda_sweep": 10,
    "dcasgd_delay_tolerance": 10, "gsgd_control": 20, "gsgd_sequence": 12,
}  # fmt: skip
"""With how many seeds "all" runs an experiment at least, at the presets that are to decide."""

DISTRIBUTED = ("gsgd_mlp", "gsgd_cifar10", "gsgd_sequence")
"""Experiments that train on the devices of several processes: batches are shared out."""

PRESET_NAMES = ("smoke", "cpu", "day", "full")
"""From the smallest: `smoke` and `cpu` show that everything runs, `day` and `full` are to decide.
Kills of `preemption` decide at any size: it has no `day`. A module may have presets of its own
beside these: what is run at them is shown on its page, and no claim is judged on it."""


class Context(NamedTuple):
    """What an experiment gets from the command line, beside its settings."""

    seeds: tuple[int, ...]
    """One run of every method each; at least one."""
    data_dir: Path | None
    """Where tensorflow-datasets finds prepared data sets; None for its default."""
    progress: Progress
    """Where progress bars are drawn."""
    stages: Stages = Stages()
    """What need not be computed again, and when to stop; by default everything is computed."""
    mesh: Mesh | None = None
    """Devices whose first axis shares out batches, for experiments of `DISTRIBUTED`; None for one
    device."""


class Experiment(Protocol):
    """The module of one experiment; this module's docstring shows one."""

    PRESETS: Mapping[str, Any]

    def run(self, settings: Any, context: Context) -> Iterator[Record]:
        """Runs the experiment, yielding each record as soon as it is finished."""
        ...

    def tables(self, records: Sequence[Record]) -> str:
        """The experiment's tables as Markdown."""
        ...

    def plots(self, records: Sequence[Record], out: Path) -> list[Path]:
        """Writes the experiment's figures into `out` and returns their paths."""
        ...


class UnknownNameError(ValueError):
    """A name that is not known, with the nearest ones that are."""

    def __init__(self, kind: str, name: str, known: Sequence[str]):
        """Builds the message: rule, what came, remedy."""
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        # The list of experiments fills a screen, and hides the line above it.
        few = len(known) <= 12
        remedy = f"Known: {', '.join(known)}." if few else "`python -m benchmarks` lists all."
        super().__init__(f"no {kind} is called {name!r}: did you mean {near[0]!r}? {remedy}")


class NoMethodsError(ValueError):
    """Methods asked for of an experiment that has none to choose from."""


def load(name: str) -> Experiment:
    """Imports the experiment called `name`; an `UnknownNameError` names the nearest."""
    if name not in NAMES:
        raise UnknownNameError("experiment", name, (*NAMES, "demo", "all"))
    return cast("Experiment", importlib.import_module(f"benchmarks.{MODULES[name]}"))


def preset(experiment: Experiment, name: str) -> Any:
    """The settings called `name`, a frozen dataclass; an `UnknownNameError` names the nearest."""
    if name not in experiment.PRESETS:
        raise UnknownNameError("preset", name, tuple(experiment.PRESETS))
    settings = experiment.PRESETS[name]
    assert dataclasses.is_dataclass(settings)
    return settings


def with_methods(settings: Any, methods: Sequence[str]) -> Any:
    """Settings with some of their methods, in the order in which they have them.

    Args:
        settings: of a preset.
        methods: by name; none for all.

    Raises:
        UnknownNameError: if one is not among them.
        NoMethodsError: if the experiment has no choice of methods.
    """
    if not methods:
        return settings
    known = getattr(settings, "methods", ())
    if not known:
        raise NoMethodsError("this experiment has no choice of methods; leave --methods out.")
    for method in methods:
        if method not in known:
            raise UnknownNameError("method of this preset", method, known)
    return dataclasses.replace(settings, methods=tuple(m for m in known if m in methods))


def names_with(preset: str) -> list[str]:
    """The experiments that have a preset."""
    return [name for name in NAMES if preset in load(name).PRESETS]


def presets_of(name: str) -> list[str]:
    """The presets that an experiment may have been recorded at.

    Args:
        name: of the experiment.

    Returns:
        Those of `PRESET_NAMES`, the largest first, then its module's own.
    """
    own = [preset for preset in load(name).PRESETS if preset not in PRESET_NAMES]
    return [*reversed(PRESET_NAMES), *own]


def preset_of(name: str, origin: Mapping[str, Any]) -> str:
    """What the preset of a record is called today.

    Presets are renamed, and records are not rewritten: it is the preset that has the record's
    settings, or all of them but for methods that were not run; the one of the recorded name comes
    first, and is taken where none has them.

    Args:
        name: of the experiment.
        origin: of the record: `preset`, and its settings as `configuration`.

    Raises:
        UnknownNameError: if no experiment has the name, or it never had the recorded preset.
    """
    experiment, recorded = load(name), str(origin.get("preset"))
    preset(experiment, recorded)
    presets = experiment.PRESETS
    names = sorted(presets, key=lambda preset: preset != recorded)
    if "configuration" not in origin:
        return recorded
    # Of the recorded name first: a part of one preset may be the whole of another.
    if _has_all_but_methods(presets[recorded], origin):
        return recorded
    exact = (preset for preset in names if not changed(presets[preset], origin))
    part = (preset for preset in names if _has_all_but_methods(presets[preset], origin))
    return next(exact, None) or next(part, recorded)


def _has_all_but_methods(settings: Any, origin: Mapping[str, Any]) -> bool:
    """Whether a record was made with settings, or with some of their methods."""
    differing = changed(settings, origin)
    then, today = differing.pop("methods", ((), ()))
    return not differing and set(then) <= set(today)


def changed(settings: Any, origin: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """In what a record was made otherwise than settings say: by name, then and today.

    Settings that did not exist when it was made are left out.

    Args:
        settings: a frozen dataclass.
        origin: of the record, its settings as `configuration`.
    """
    today, then = json_ready(dataclasses.asdict(settings)), origin.get("configuration", {})
    return {
        name: (then[name], value)
        for name, value in today.items()
        if name in then and then[name] != value
    }


def seeds_of(name: str, preset: str, asked: int) -> int:
    """With how many seeds "all" runs an experiment.

    Args:
        name: of the experiment.
        preset: at which it is run.
        asked: how many were asked for.
    """
    if name in ONE_SEED:
        return 1
    return max(asked, LEAST_SEEDS.get(name, 1)) if preset in ("day", "full") else asked


def source(name: str) -> str:
    """The text of an experiment's module, read without importing it."""
    return (_ROOT / MODULES[name].replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")


def describe(name: str) -> str:
    """An experiment's whole docstring, read without importing it (and so without importing jax)."""
    return ast.get_docstring(ast.parse(source(name))) or ""


def claim(name: str) -> str:
    """The first line of an experiment's docstring."""
    return describe(name).partition("\n")[0]
