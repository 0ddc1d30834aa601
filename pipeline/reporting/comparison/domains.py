"""Results of a comparison over domains: tables, figures, and the verdict."""

from __future__ import annotations

from itertools import product
from pathlib import Path

from pipeline.comparison.domain_results import DomainResults
from pipeline.comparison.leave_one_out import SCORES, SOURCES, TARGET
from pipeline.comparison.run_store import TUNING_SEED
from pipeline.comparison.verdict import POINTS, end_sentence
from pipeline.evaluation.csv_tables import CsvTable
from pipeline.project.terminal import escape_markdown
from pipeline.reporting.comparison.domain_figures import domain_figures
from pipeline.reporting.comparison.summary import format_interval, write_result_folder

METRICS = tuple(f"{where} {name}" for where in (TARGET, SOURCES) for name in SCORES)
GATE = (0.20, 0.10)
"""Points above the largest class that a teacher should reach on its best held-out domain, and on two others."""


def write_domain_results(told: DomainResults, out: Path) -> Path:
    """Write tables, figures, metrics, the verdict and their hashes into a folder; returns the verdict's file."""
    drawn = domain_figures(told)
    return write_result_folder(out, domain_tables(told), drawn, domain_summary(told), domain_verdict(told))


def domain_verdict(told: DomainResults) -> list[str]:
    """Return the outcome as sentences and a table per budget."""
    params = told.params
    lines = [
        f"# {escape_markdown(params.student)}: {len(told.domains)} domains, each held out in turn",
        "",
        f"Top-1 {'' if params.score == 'accuracy' else 'averaged over classes '}on the held-out domain, {told.seeds} "
        "seeds on each, each arm at its own best rate on the other domains' validation images. Arms are paired by seed "
        "and domain. Intervals are 95 %; a difference is stated only if it is significant by Holm's p over all arms. "
        "The results hold for these domains only.",
        "",
        _teacher_sentence(told),
    ]
    for epochs in sorted(params.epochs):
        lines += ["", f"## {epochs} epochs", "", *_table(told, epochs), "", *_sentences(told, epochs)]
    return lines


def _teacher_sentence(told: DomainResults) -> str:
    above = sorted((t[f"teacher {told.params.score}"] - t["majority"] for t in told.teacher.values()), reverse=True)
    passes = above[0] >= GATE[0] and all(gap >= GATE[1] for gap in above[1:3])
    each = "; ".join(
        f"{escape_markdown(name)} {POINTS * t[f'teacher {told.params.score}']:.1f} % (largest class "
        f"{POINTS * t['majority']:.1f} %, linear probe of the others {POINTS * t[f'probe {told.params.score}']:.1f} %)"
        for name, t in told.teacher.items()
    )
    words = "its prompts" if told.params.words == "prompts" else "class vectors fitted to the other domains' images"
    gate = "It passes" if passes else "**It does not pass**"
    return (
        f"The teacher by {words}: {each}. {gate} the gate: {POINTS * GATE[0]:.0f} points above the largest class on "
        f"its best domain, {POINTS * GATE[1]:.0f} on two others."
    )


def _table(told: DomainResults, epochs: int) -> list[str]:
    columns = [*map(escape_markdown, told.domains), "mean", "worst"]
    lines = [f"| arm | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for arm in told.params.targets:
        cells = [told.end(arm, epochs, told.headline, domain) for domain in told.domains]
        cells += [told.mean(arm, epochs, told.headline), told.worst(arm, epochs, told.headline)]
        lines.append(f"| {escape_markdown(arm)} | {' | '.join(format_interval(cell) for cell in cells)} |")
    return lines


def _sentences(told: DomainResults, epochs: int) -> list[str]:
    references = [told.params.reference] + ([told.params.control] if told.params.control else [])
    found = {name: {c.arm: c for c in told.contrasts(name, epochs, told.headline)} for name in references}
    lines = []
    for arm in told.params.targets:
        ends = [found[name][arm] for name in references if arm in found[name]]
        if arm != told.params.reference and ends:
            parts = [end_sentence(end, told.params.margin, "pairs of seed and domain") for end in ends]
            lines.append(f"* **{escape_markdown(arm)}** {'; '.join(parts)}")
    return lines


def domain_summary(told: DomainResults) -> dict[str, dict[str, dict[str, float]]]:
    """Return the final means by budget, arm and metric, for DVC's metrics."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for epochs, arm in product(told.params.epochs, told.params.targets):
        each = {f"{m}, {d}": told.end(arm, epochs, m, d).mean for m, d in product(METRICS, told.domains)}
        means = {f"{m}, mean": told.mean(arm, epochs, m).mean for m in METRICS}
        worst = {f"{m}, worst": told.worst(arm, epochs, m).mean for m in METRICS}
        found.setdefault(f"epochs-{epochs}", {})[arm] = {**each, **means, **worst}
    return found


def domain_tables(told: DomainResults) -> dict[str, CsvTable]:
    """Return final values, contrasts, rates, initial losses, the teacher, and confusions as tables."""
    return {
        "ends": _ends(told),
        "contrasts": _contrasts(told),
        "rates": _rates(told),
        "starts": _starts(told),
        "teacher": _teacher(told),
        "mistakes": _mistakes(told),
    }


def _ends(told: DomainResults) -> CsvTable:
    rows = []
    for epochs, arm, metric in product(sorted(told.params.epochs), told.params.targets, METRICS):
        ends = {domain: told.end(arm, epochs, metric, domain) for domain in told.domains}
        ends |= {"mean": told.mean(arm, epochs, metric), "worst": told.worst(arm, epochs, metric)}
        for domain, end in ends.items():
            rate = told.rates.get((arm, epochs, domain), float("nan"))
            rows.append((epochs, arm, metric, domain, end.mean, end.low, end.high, end.pairs, rate))
    return CsvTable(("epochs", "arm", "metric", "domain", "mean", "low", "high", "seeds", "rate"), rows)


def _contrasts(told: DomainResults) -> CsvTable:
    """Return every arm against every other one: over all domains, and on each."""
    rows = []
    places: list[str | None] = [None, *told.domains]
    asked = product(sorted(told.params.epochs), METRICS, told.params.targets, places)
    for epochs, metric, reference, domain in asked:
        for c in told.contrasts(reference, epochs, metric, domain):
            end = c.final.mean, c.final.low, c.final.high, c.final.p, c.equivalence_p, c.paired_sd, c.final.pairs
            rows.append((epochs, metric, domain or "all", reference, c.arm, *end))
    names = "epochs metric domain reference arm difference low high p equal_p spread pairs"
    return CsvTable(tuple(names.split()), rows)


def _rates(told: DomainResults) -> CsvTable:
    runs = sorted(
        (r for r in told.runs if r.seed == TUNING_SEED and r.held_out in told.folds),
        key=lambda r: (r.epochs, r.arm, str(r.held_out), r.learning_rate),
    )
    chosen = told.params.rate_selection_metric
    rows = [
        (
            r.epochs,
            r.arm,
            r.held_out,
            r.learning_rate,
            r.final[chosen],
            int(told.rates[r.arm, r.epochs, str(r.held_out)] == r.learning_rate),
        )
        for r in runs
    ]
    return CsvTable(("epochs", "arm", "without", "rate", chosen, "chosen"), rows)


def _starts(told: DomainResults) -> CsvTable:
    """Return each loss and its weighted gradient at the output of the trunk before the first step."""
    first = [run for run in told.scored_runs if run.epochs == min(told.params.epochs)]
    rows = [(r.arm, str(r.held_out), r.seed, name, value) for r in first for name, value in sorted(r.start.items())]
    return CsvTable(("arm", "without", "seed", "name", "value"), rows)


def _teacher(told: DomainResults) -> CsvTable:
    rows = [(name, what, value) for name, found in told.teacher.items() for what, value in found.items()]
    return CsvTable(("domain", "score", "value"), rows)


def _mistakes(told: DomainResults) -> CsvTable:
    rows = [
        (epochs, arm, domain, *found)
        for epochs, arm, domain in product(sorted(told.params.epochs), told.params.targets, told.domains)
        for found in told.confusions(arm, epochs, domain)
    ]
    return CsvTable(("epochs", "arm", "domain", "true", "called", "share"), rows)
