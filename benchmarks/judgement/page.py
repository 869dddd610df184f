"""The claims with their verdicts, as Markdown: for the index of the evidence and the README."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.harness import registry
from benchmarks.judgement.claims import CLAIMS, Claim, judged
from benchmarks.judgement.finding import Finding, Measured
from benchmarks.judgement.some_methods import origin_of, sources
from common.results.records import Record

BEGIN = "<!-- made from the records by `python -m benchmarks report`: begin -->"
END = "<!-- made from the records by `python -m benchmarks report`: end -->"

HEAD = """# Evidence

The claims, with what the records say of each; then one page for each experiment that has been
measured. Tables, figures and verdicts are made from the summaries of records beside them by
`python -m benchmarks report`. Figures in the texts above the tables, and those of other people's
programs, are typed, with what they were measured on.

**When one method is better than another.** Where Student's t test of their differences, seed by
seed, is significant at 5%, with Holm's correction for all comparisons of its table. Where neither
side wins, we say "no gain as large as hoped" (published, or the least that one would change the
method for) only if the seeds could have seen such a gain, with a power of 80%, and their 95%
interval excludes it. "Visible" is the smallest difference that they would have shown, with that
power, in one comparison by itself; corrected for many it takes more. What is said to be absent is
not corrected: of twenty gains that are excluded, one may be there. Where less than 80% of the
accuracy that a task allows is reached, too little is learnt to conclude from; nor is anything
concluded against a baseline whose step is marked "(edge)", the least or the largest of its grid.

**Words.** *ERM* (empirical risk minimisation) is an ordinary classifier, trained on all domains as
one; *Pool-LaCIM* is LaCIM with one prior for all of them. The *oracle* chooses settings by images
of the test domain, as no user can. *MCC* is the mean correlation coefficient of latents found and
true ones. *DC-ASGD-c* and *-a* have a constant and an adaptive strength λ; *diag(λG)* is the
diagonal by which they stand in for the Hessian. *m-synchronous* SGD waits for the first m workers
of a round.

**What the verdicts mean**, of a claim that one method is better:

- *holds*: every comparison is won;
- *holds partly*: at least a quarter is won, and more than are lost;
- *does not hold here*: less than that is won, and at least half of the comparisons say something;
- *not decided*: less than that is won, and less than half say anything.

A claim of two parts holds if both do, and partly if one does, wholly or in part. If one part is not
decided and the other does not hold, the whole is not decided, and its section says which part is
which. Some have rules of their own:

- *Delay compensation* (3) is what its first clause is, "better than ASGD": only a gain can grow
  with the delay. It holds but partly unless the other clauses hold as well. "As good as" fails with
  one comparison that is lost, and holds if at least half exclude a loss as large as the gain hoped
  for.
- *The ladder* (4) has a bar for each clause and activation, and holds if all are shown, partly if
  one clause is for all activations. It does not hold if a clause is refuted for all activations; or
  if none is shown, and both are refuted for half of the activations.
- *Identifiability* (6) holds if s is above its target and above what separating s from v gives, v
  too, more domains do as well, and pooled data and fewer domains do worse; partly if that is shown
  of s alone.
- *Invariance* (2) holds where, in each precision, the worst run in path space ends at most a
  hundredth as far apart as the best on weights; partly if one precision meets that.
- *Speed* (7) and *language models* (8) have targets, which their sections state: they hold if all
  are met, and partly if some are.

A claim is judged on the largest preset that was recorded with the settings it has today, and on the
largest record where none was."""


def claim_sections(measured: Measured, figures: Mapping[str, Path | None]) -> str:
    """Every claim with its verdict, what that rests on, and what was published.

    `figures` are relative to the page, None where a claim has none.
    """
    sections = []
    for claim, finding, heading in _headed(measured):
        used = [n for n in claim.experiments if n in measured and n not in finding.unused]
        pages = ", ".join(f"[{n}]({n}.md)" for n in used)
        # Of the record that the claim cannot do without.
        needed = measured.get(claim.needed, ())
        made = f"{came_from(claim.needed, needed)}." if needed else ""
        lines = [
            f"### {heading}",
            f"*{claim.text}*",
            f"**Here:** {finding.figures}",
            f"**Published:** {claim.published} **Different here:** {claim.difference}",
            f"**From:** {pages or 'nothing yet'}. {made}".rstrip(),
        ]
        figure = figures.get(claim.name)
        if figure is not None:
            lines.append(f"![{claim.name}]({figure.as_posix()})")
        sections.append("\n\n".join(lines))
    return "\n\n".join(sections)


def came_from(name: str, records: Sequence[Record]) -> str:
    """Command, commit and hardware of an experiment's records, and what that command does today."""
    origin = origin_of(records)
    made, recorded = sources(records), origin["preset"]
    today = registry.preset_of(name, origin)
    if today != recorded:
        return f"{made}; that preset is called `{today}` today"
    if registry.changed(registry.preset(registry.load(name), today), origin):
        return f"{made}; that preset has other settings today"
    return made


def verdicts_on(name: str, measured: Measured, index: str) -> str:
    """What is said of the claims that an experiment belongs to; empty where there are none.

    `index` is the page that the sections stand on, as seen from the experiment's own.
    """
    return "\n\n".join(
        f"**Belongs to the claim [{claim.name}]({index}#{_anchor(heading)}): {finding.verdict}.** "
        f"{_capital(finding.headline)}."
        for claim, finding, heading in _headed(measured, name)
    )


def claim_table(measured: Measured, link: str) -> str:
    """One row a claim, with a link to where its section is."""
    # Cells are sentences: neither padded nor set to the right, as `markdown` does with numbers.
    lines = ["| claim | verdict | measured |", "| :---- | :------ | :------- |"]
    lines += [
        f"| [{claim.name}]({link}#{_anchor(heading)}): {claim.text} | **{finding.verdict}** | "
        f"{'<br>'.join(_clauses(finding.headline))} |"
        for claim, finding, heading in _headed(measured)
    ]
    return "\n".join(lines)


def _clauses(sentence: str) -> list[str]:
    """What semicolons set apart, but for those in brackets: each gets a line of its own."""
    return re.split(r"; (?![^()]*\))", sentence)


def with_claims(text: str, block: str) -> str:
    """A page with what is between its markers replaced.

    Raises:
        ValueError: if the markers are not there, once each and in order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(
            f"a page with claims needs the lines {BEGIN!r} and {END!r}, in this order."
        )
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def _headed(
    measured: Measured, experiment: str | None = None
) -> Iterator[tuple[Claim, Finding, str]]:
    """Every claim, or those of an experiment, with verdict and the heading of its section."""
    for number, claim in enumerate(CLAIMS, start=1):
        if experiment is None or experiment in claim.experiments:
            finding = judged(claim, measured)
            if experiment in finding.unused:
                continue
            yield claim, finding, f"{number}. {_capital(claim.name)}: {finding.verdict}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _anchor(heading: str) -> str:
    """What a heading is called in addresses: lower case, hyphens, no other punctuation."""
    kept = "".join(c for c in heading.lower() if c.isalnum() or c in " -")
    return kept.replace(" ", "-")
