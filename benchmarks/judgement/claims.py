"""The claims of the talk, its papers and public measurements, and what the records say of each.

What was published is typed, with its source; everything else is computed, for each claim in a
module of its own (`path_space_verdict` and its like).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from benchmarks.judgement.delay_verdict import delay
from benchmarks.judgement.finding import Finding, Measured
from benchmarks.judgement.fonts_verdict import more_domains
from benchmarks.judgement.ladder_verdict import ladder
from benchmarks.judgement.language_verdict import language
from benchmarks.judgement.latent_verdict import domains, identifiability
from benchmarks.judgement.path_space_verdict import invariance, path_space_training
from benchmarks.judgement.speed_verdict import speed

NOT_MEASURED = "not measured"


class Claim(NamedTuple):
    """One claim."""

    name: str
    """In three words or so."""
    text: str
    """What is claimed, so that it could be wrong."""
    experiments: tuple[str, ...]
    """That test it; the claim is judged on those of them that have been measured."""
    needed: str
    """The one without which it cannot be judged."""
    judge: Callable[[Measured], Finding]
    figure: str
    """The file, of the needed experiment's figures, that shows it."""
    published: str
    """The published figure with its source."""
    difference: str
    """What is different here, in a sentence."""


CLAIMS: Sequence[Claim] = (
    Claim(
        "training in path space",
        "From the same weights, G-SGD trains a ReLU network better than SGD, and over a wider "
        "range of step sizes.",
        ("gsgd_cifar10", "gsgd_mlp", "gsgd_sequence", "gsgd_control"),
        "gsgd_cifar10",
        path_space_training,
        "learning_rates.png",
        "plain-34, CIFAR-10, step 1.0, one seed: after 9 epochs G-SGD 80.4% and SGD 50.9%; G-SGD "
        "92.78% in the end (logs of github.com/MSRA-COLT/gsgd; Meng et al., 2019, "
        "arxiv.org/abs/1802.03713).",
        "SGD is given the same initialisation, and every method its own best step of one grid; "
        "networks are smaller and budgets shorter below the full preset.",
    ),
    Claim(
        "invariance",
        "How the units of the starting point are scaled changes what SGD learns, and not what "
        "G-SGD learns.",
        ("gsgd_invariance",),
        "gsgd_invariance",
        invariance,
        "distance.png",
        "A theorem, without a figure (Meng et al., 2019, arxiv.org/abs/1802.03713).",
        "Measured as the distance of two trajectories in function space, in two precisions.",
    ),
    Claim(
        "delay compensation",
        "DC-ASGD is more accurate than ASGD, the more so the longer the delays, and as good as "
        "synchronous training.",
        (
            "dcasgd_cifar10",
            "dcasgd_digits",
            "dcasgd_delay_tolerance",
            "dcasgd_lambda_sweep",
            "dcasgd_imagenet",
        ),
        "dcasgd_digits",
        delay,
        "dcasgd_digits_steps.png",
        "ResNet-20, CIFAR-10, test error with 4 / 8 workers: ASGD 9.27 / 10.26, DC-ASGD-c 8.67 / "
        "9.27, DC-ASGD-a 8.19 / 8.57, one worker 8.65 (Zheng et al., 2017, "
        "arxiv.org/abs/1609.08326).",
        "Each rule is tuned on its own, which the published comparison, at one step for all, is "
        "not; m-synchronous SGD stands beside it; networks are smaller.",
    ),
    Claim(
        "the Hessian ladder",
        "Compensation with the Hessian removes most of the error of a stale gradient, and its "
        "cheapest stand-in, diag(λG), still a useful part of it.",
        ("dcasgd_hessian_ladder",),
        "dcasgd_hessian_ladder",
        ladder,
        "dcasgd_hessian_ladder.png",
        "How diag(λG) derives from the Hessian, without a measured error of its own (Zheng et al., "
        "2017, arxiv.org/abs/1609.08326).",
        "Measured against the fresh gradient of the same batch, with the factor that suits each "
        "stand-in best.",
    ),
    Claim(
        "prediction out of domain",
        "Where what goes with the label changes between domains, LaCIM predicts better than ERM "
        "and than other methods that see several domains.",
        (
            "lacim_baselines",
            "lacim_pacs",
            "lacim_spurious_pacs",
            "lacim_colored_digits",
            "lacim_flip",
        ),
        "lacim_baselines",
        domains,
        "selection.png",
        "Coloured MNIST, chosen on training domains / by the oracle: ERM 10.0 / 28.7, IRM 10.2 / "
        "58.5, V-REx 10.2 / 55.2; PACS, pretrained, on training domains: ERM 85.5, CORAL 86.2 "
        "(DomainBed, arxiv.org/abs/2007.01434). No figure of LaCIM in this setting is known to us.",
        "Coloured digits with small networks; PACS, and its mixture in which the label goes with "
        "the style, by frozen features of a small pretrained network, on 64x64 images. "
        "Every method has the same encoder and as many trials; in the flip test all have one "
        "step size, which was not tuned.",
    ),
    Claim(
        "identifiability",
        "From enough domains that are diverse enough, s and v are found up to their own "
        "coordinates, and not from fewer or from pooled data.",
        ("lacim_identifiability",),
        "lacim_identifiability",
        identifiability,
        "mcc_continuous.png",
        "A theorem (Sun et al., 2021, arxiv.org/abs/2011.02203); in its public simulation the mean "
        "of the domain alone correlates with the latents by more than 0.98.",
        "Correlations are fitted and scored on separate data and within domains, beside the "
        "control that separates s from v and is otherwise turned at random.",
    ),
    Claim(
        "speed",
        "A step in path space costs what a step of SGD does, a simulated cluster trains as fast "
        "as synchronous SGD, and compiled latent search is several times as fast as a loop.",
        ("gsgd_speed", "dcasgd_speed", "lacim_speed"),
        "gsgd_speed",
        speed,
        "ratio.png",
        "None on comparable hardware.",
        "Ratios of programs that are timed in turns in one process.",
    ),
    Claim(
        "delay on language models",
        "The published diagonal recovers next to nothing of what delay costs Adam, Muon is 2.6 to "
        "5.3 times as robust, prediction along its step recovers half, and a pipeline's true "
        "profile is 3.3 times milder than its longest delay for all.",
        ("delayed_language_model",),
        "delayed_language_model",
        language,
        "delayed_language_gaps.png",
        "A mixture of experts with 290M parameters on TPU, staleness 8, two seeds: at most 3%; 2.6 "
        "to 5.3 times; 46%; 3.3 times (Marin, June 2026, github.com/marin-community/marin, issue "
        "6431).",
        "A byte-level transformer with under a million parameters below the full preset; the step "
        "of every row is tuned, and a smaller step without any rule stands beside them.",
    ),
    Claim(
        "more training domains",
        "From more training domains, as many images in all, LaCIM predicts better in new ones "
        "than ERM does, and finds v better than from pooled data or few domains.",
        ("lacim_fonts",),
        "lacim_fonts",
        more_domains,
        "fonts.png",
        "A theorem: the priors of enough domains identify v (Sun et al., 2021, "
        "arxiv.org/abs/2011.02203), without a figure against their number.",
        "Letters, one font a domain; tests are in fonts of other families, with what goes with "
        "the letter turned about. All methods have one step size and their default weights.",
    ),
)


def judged(claim: Claim, measured: Measured) -> Finding:
    """The verdict on a claim, from what has been measured."""
    if not measured.get(claim.needed):
        return Finding(NOT_MEASURED, "-", f"`{claim.needed}` has no kept records.")
    return claim.judge({name: measured[name] for name in claim.experiments if name in measured})
