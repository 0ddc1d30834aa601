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


def write_domain_results(results: DomainResults, out: Path) -> Path:
    """Write tables, figures, metrics, the verdict and their hashes into a folder; returns the verdict's file."""
    figures = domain_figures(results)
    return write_result_folder(out, domain_tables(results), figures, domain_summary(results), domain_verdict(results))


def domain_verdict(results: DomainResults) -> list[str]:
    """Return the outcome as sentences and a table per budget."""
    params = results.params
    lines = [
        f"# {escape_markdown(params.student)}: {len(results.domains)} domains, each held out in turn",
        "",
        f"Top-1 {'' if params.score == 'accuracy' else 'averaged over classes '}on the held-out domain, "
        f"{results.seeds} seeds on each, {_rate_rule(results)}. Arms "
        "are paired by seed and domain. Intervals are 95 %; a difference is stated only if it is significant by Holm's "
        "p over all arms. The results hold for these domains only.",
        "",
        _teacher_sentence(results),
    ]
    for epochs in sorted(params.epochs):
        lines += ["", f"## {epochs} epochs", "", *_table(results, epochs), "", *_sentences(results, epochs)]
    return lines


def _rate_rule(results: DomainResults) -> str:
    if len(results.params.learning_rates) == 1:
        return f"every arm at the fixed rate {results.params.learning_rates[0]:g}"
    return "each arm at its own best rate on the other domains' validation images"


def _teacher_sentence(results: DomainResults) -> str:
    above = sorted((t["teacher accuracy"] - t["majority"] for t in results.teacher.values()), reverse=True)
    passes = above[0] >= GATE[0] and all(gap >= GATE[1] for gap in above[1:3])
    each = "; ".join(
        f"{escape_markdown(name)} {POINTS * t['teacher accuracy']:.1f} % (largest class "
        f"{POINTS * t['majority']:.1f} %, prompts {POINTS * t['prompts accuracy']:.1f} %, linear probe of the others "
        f"{POINTS * t['probe accuracy']:.1f} %)"
        for name, t in results.teacher.items()
    )
    words = "its prompts" if results.params.words == "prompts" else "class vectors fitted to the other domains' images"
    gate = "It passes" if passes else "**It does not pass**"
    return (
        f"The teacher's top-1 by {words}: {each}. {gate} the gate: {POINTS * GATE[0]:.0f} points above the largest "
        f"class on its best domain, {POINTS * GATE[1]:.0f} on two others."
    )


def _table(results: DomainResults, epochs: int) -> list[str]:
    columns = [*map(escape_markdown, results.domains), "mean", "worst"]
    lines = [f"| arm | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for arm in results.params.targets:
        cells = [results.end(arm, epochs, results.headline, domain) for domain in results.domains]
        cells += [results.mean(arm, epochs, results.headline), results.worst(arm, epochs, results.headline)]
        lines.append(f"| {escape_markdown(arm)} | {' | '.join(format_interval(cell) for cell in cells)} |")
    return lines


def _sentences(results: DomainResults, epochs: int) -> list[str]:
    references = [results.params.reference] + ([results.params.control] if results.params.control else [])
    contrasts = {name: {c.arm: c for c in results.contrasts(name, epochs, results.headline)} for name in references}
    lines = []
    for arm in results.params.targets:
        ends = [contrasts[name][arm] for name in references if arm in contrasts[name]]
        if arm != results.params.reference and ends:
            parts = [end_sentence(end, results.params.margin, "pairs of seed and domain") for end in ends]
            lines.append(f"* **{escape_markdown(arm)}** {'; '.join(parts)}")
    return lines


def domain_summary(results: DomainResults) -> dict[str, dict[str, dict[str, float]]]:
    """Return the final means by budget, arm and metric, for DVC's metrics."""
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for epochs, arm in product(results.params.epochs, results.params.targets):
        each = {f"{m}, {d}": results.end(arm, epochs, m, d).mean for m, d in product(METRICS, results.domains)}
        means = {f"{m}, mean": results.mean(arm, epochs, m).mean for m in METRICS}
        worst = {f"{m}, worst": results.worst(arm, epochs, m).mean for m in METRICS}
        scores.setdefault(f"epochs-{epochs}", {})[arm] = {**each, **means, **worst}
    return scores


def domain_tables(results: DomainResults) -> dict[str, CsvTable]:
    """Return final values, contrasts, rates, initial losses, the teacher, and confusions as tables."""
    return {
        "ends": _ends(results),
        "contrasts": _contrasts(results),
        "rates": _rates(results),
        "starts": _starts(results),
        "teacher": _teacher(results),
        "mistakes": _mistakes(results),
    }


def _ends(results: DomainResults) -> CsvTable:
    rows = []
    for epochs, arm, metric in product(sorted(results.params.epochs), results.params.targets, METRICS):
        ends = {domain: results.end(arm, epochs, metric, domain) for domain in results.domains}
        ends |= {"mean": results.mean(arm, epochs, metric), "worst": results.worst(arm, epochs, metric)}
        for domain, end in ends.items():
            rate = results.rates.get((arm, epochs, domain), float("nan"))
            rows.append((epochs, arm, metric, domain, end.mean, end.low, end.high, end.pairs, rate))
    return CsvTable(("epochs", "arm", "metric", "domain", "mean", "low", "high", "seeds", "rate"), rows)


def _contrasts(results: DomainResults) -> CsvTable:
    """Return every arm against every other one: over all domains, and on each."""
    rows = []
    places: list[str | None] = [None, *results.domains]
    questions = product(sorted(results.params.epochs), METRICS, results.params.targets, places)
    for epochs, metric, reference, domain in questions:
        for c in results.contrasts(reference, epochs, metric, domain):
            end = c.final.mean, c.final.low, c.final.high, c.final.p, c.equivalence_p, c.paired_sd, c.final.pairs
            rows.append((epochs, metric, domain or "all", reference, c.arm, *end))
    names = "epochs metric domain reference arm difference low high p equal_p spread pairs"
    return CsvTable(tuple(names.split()), rows)


def _rates(results: DomainResults) -> CsvTable:
    runs = sorted(
        (r for r in results.runs if r.seed == TUNING_SEED and r.held_out in results.folds),
        key=lambda r: (r.epochs, r.arm, str(r.held_out), r.learning_rate),
    )
    metric = results.params.rate_selection_metric
    rows = [
        (
            r.epochs,
            r.arm,
            r.held_out,
            r.learning_rate,
            r.final[metric],
            int(results.rates[r.arm, r.epochs, str(r.held_out)] == r.learning_rate),
        )
        for r in runs
    ]
    return CsvTable(("epochs", "arm", "without", "rate", metric, "chosen"), rows)


def _starts(results: DomainResults) -> CsvTable:
    """Return each loss and its weighted gradient at the output of the trunk before the first step."""
    first = [run for run in results.scored_runs if run.epochs == min(results.params.epochs)]
    rows = [(r.arm, str(r.held_out), r.seed, name, value) for r in first for name, value in sorted(r.start.items())]
    return CsvTable(("arm", "without", "seed", "name", "value"), rows)


def _teacher(results: DomainResults) -> CsvTable:
    rows = [(name, what, value) for name, scores in results.teacher.items() for what, value in scores.items()]
    return CsvTable(("domain", "score", "value"), rows)


def _mistakes(results: DomainResults) -> CsvTable:
    rows = [
        (epochs, arm, domain, *mistake)
        for epochs, arm, domain in product(sorted(results.params.epochs), results.params.targets, results.domains)
        for mistake in results.confusions(arm, epochs, domain)
    ]
    return CsvTable(("epochs", "arm", "domain", "true", "called", "share"), rows)
