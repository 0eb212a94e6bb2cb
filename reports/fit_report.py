"""One page on a fitted shop: quality beside baselines, what was tried, cold items, coverage and examples."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment

from ..data import Domain
from ..data.atomic import whole_file
from .card_tables import metric_name


METRICS = ("recall@10", "ndcg@10", "recall@50", "ndcg@50")
COLORS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df")
WIDTH, HEIGHT, MARGIN = 560, 240, 44


@dataclass
class Attempt:
    """
    One recipe that was tried.

    Args:
        name (`str`): Name of the recipe.
        score (`float`, *optional*): Validation NDCG@10 with seen items masked, of the best epoch.
        seconds (`float`, *optional*): Time that it took.
        best_epoch (`float`, *optional*): Epoch of the best score.
        curve (`list[tuple[float, float]]`, *optional*): Epoch and score of each evaluation.
        note (`str`, *optional*): Why there is no score.
    """

    name: str
    score: float | None = None
    seconds: float | None = None
    best_epoch: float | None = None
    curve: list[tuple[float, float]] = field(default_factory=list)
    note: str = ""


@dataclass
class Example:
    """A test user: texts of the history (oldest first), the item that came next, and recommended texts with scores."""

    user_id: str
    history: list[str]
    target: str
    recommended: list[tuple[str, float]]


@dataclass
class FitFacts:
    """
    What the report tells.

    Args:
        name (`str`): Name of the shop.
        domain ([`Domain`]): Its data.
        columns (`Sequence[str]`): A line for each recognised column.
        rows (`dict[str, dict[str, float]]`): Test metrics by name of baseline or recipe.
        chosen (`str`): The recipe that was chosen.
        attempts (`Sequence[Attempt]`): What was tried.
        examples (`Sequence[Example]`): Test users.
        coverage (`dict[str, Any]`): `users` that were asked for, `items` among their ten best, and their `share`.
        cold (`dict[str, dict[str, float]]`): Test metrics by training interactions of the item that came next.
        notes (`Sequence[str]`): Sentences below the test metrics.
    """

    name: str
    domain: Domain
    columns: Sequence[str]
    rows: dict[str, dict[str, float]]
    chosen: str
    attempts: Sequence[Attempt]
    examples: Sequence[Example]
    coverage: dict[str, Any]
    cold: dict[str, dict[str, float]]
    notes: Sequence[str]


def write_fit_report(file: Path, facts: FitFacts) -> None:
    """
    Writes the report as one HTML file that loads nothing else.

    Args:
        file (`Path`): File to write.
        facts ([`FitFacts`]): What it tells.
    """
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["metric"] = metric_name
    text = environment.from_string(TEMPLATE).render(
        facts=facts,
        domain=facts.domain,
        metrics=METRICS,
        unsold=facts.domain.num_items - len(set(facts.domain.flat.tolist())),
        lines=_lines(facts.attempts),
        colors=COLORS,
        width=WIDTH,
        height=HEIGHT,
        margin=MARGIN,
    )
    with whole_file(file) as draft:
        draft.write_text(text, encoding="utf-8")


def _lines(attempts: Sequence[Attempt]) -> dict[str, Any]:
    """Validation curves as points of an SVG; empty if no training was evaluated twice."""
    curves = [attempt for attempt in attempts if len(attempt.curve) > 1]
    if not curves:
        return {}
    last = max(attempt.curve[-1][0] for attempt in curves)
    top = max(score for attempt in curves for _, score in attempt.curve) or 1.0
    return {
        "last": last,
        "top": top,
        "curves": [
            (
                attempt.name,
                " ".join(
                    f"{MARGIN + epoch / last * (WIDTH - 2 * MARGIN):.1f},"
                    f"{HEIGHT - MARGIN - score / top * (HEIGHT - 2 * MARGIN):.1f}"
                    for epoch, score in attempt.curve
                ),
            )
            for attempt in curves
        ],
    }


TEMPLATE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ facts.name }}: report of unisrec fit</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1f2328; }
h1, h2 { line-height: 1.25; }
h2 { margin-top: 2.2rem; padding-bottom: .3rem; border-bottom: 1px solid #d1d9e0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0 1rem; }
th, td { padding: .25rem 0 .25rem 1.4rem; text-align: right; border-bottom: 1px solid #d1d9e0; vertical-align: top; }
td { font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { padding-left: 0; text-align: left; }
.best td { font-weight: 700; }
svg { max-width: 100%; height: auto; font: inherit; }
.examples { table-layout: fixed; width: 100%; min-width: 40rem; font-size: 14px; line-height: 1.4; }
.examples th, .examples td { width: 36%; text-align: left; overflow-wrap: anywhere; }
.examples th:nth-child(2), .examples td:nth-child(2) { width: 28%; }
.examples ol { margin: 0; padding-left: 1.6em; }
.examples li { margin-bottom: .2rem; }
.faint { color: #59636e; }
pre { overflow-x: auto; background: #f6f8fa; padding: .8rem; font-size: 12px; }
.hit { color: #1a7f37; font-weight: 600; }
</style>
</head>
<body>
<h1>{{ facts.name }}</h1>
<p>{{ "{:,}".format(domain.num_users) }} users, {{ "{:,}".format(domain.num_items) }} items
({{ "{:,}".format(unsold) }} of them never sold), {{ "{:,}".format(domain.num_interactions) }} interactions.
Chosen: <b>{{ facts.chosen }}</b>.</p>

<h2>Quality</h2>
{% if domain.cut %}
<p>All that each user took from {{ domain.cut.shown }} on is to be found among all items of the catalogue, those of the
user's own history left out. Nothing of that time played a part in training or choice.</p>
{% else %}
<p>The last interaction of each user is to be found among all items of the catalogue, those of the user's own history
left out, except the one to be found. It played no part in training or choice.</p>
{% endif %}
<div class="wide">
<table>
<tr><th></th>{% for name in metrics %}<th>{{ name|metric }}</th>{% endfor %}</tr>
{% for name, row in facts.rows.items() %}
<tr{% if name == facts.chosen %} class="best"{% endif %}><td>{{ name }}</td>
{% for metric in metrics %}<td>{{ "%.4f"|format(row[metric ~ "_seen_masked"]) }}</td>{% endfor %}</tr>
{% endfor %}
</table>
</div>
{% for note in facts.notes %}
<p>{{ note[0]|upper }}{{ note[1:] }}.</p>
{% endfor %}

<h2>What was tried</h2>
<p>Compared by NDCG@10 on {{ "the next item of each user in the last tenth before that time" if domain.cut else "the second-to-last interaction of each user" }}.</p>
<div class="wide">
<table>
<tr><th>recipe</th><th>NDCG@10, validation</th><th>best epoch</th><th>minutes</th></tr>
{% for each in facts.attempts %}
<tr{% if each.name == facts.chosen %} class="best"{% endif %}><td>{{ each.name }}</td>
<td>{{ each.note if each.score is none else "%.4f"|format(each.score) }}</td>
<td>{{ "" if each.best_epoch is none else "%.0f"|format(each.best_epoch) }}</td>
<td>{{ "" if each.seconds is none else "%.1f"|format(each.seconds / 60) }}</td></tr>
{% endfor %}
</table>
</div>
{% if lines %}
<svg viewBox="0 0 {{ width }} {{ height }}" width="{{ width }}" role="img" aria-label="Validation NDCG@10 by epoch">
<path d="M{{ margin }} {{ margin / 2 }}V{{ height - margin }}H{{ width - margin }}" fill="none" stroke="#8b949e"/>
<text x="{{ margin - 4 }}" y="{{ margin }}" font-size="11" text-anchor="end">{{ "%.3f"|format(lines.top) }}</text>
<text x="{{ margin - 4 }}" y="{{ height - margin }}" font-size="11" text-anchor="end">0</text>
<text x="{{ width - margin }}" y="{{ height - margin + 14 }}" font-size="11" text-anchor="end">epoch {{ "%.0f"|format(lines.last) }}</text>
{% for name, points in lines.curves %}
<polyline points="{{ points }}" fill="none" stroke-width="1.8" stroke="{{ colors[loop.index0 % colors|length] }}"/>
<text x="{{ width - margin }}" y="{{ height - margin - 8 - 14 * (loop.length - loop.index) }}" font-size="11" text-anchor="end" fill="{{ colors[loop.index0 % colors|length] }}">{{ name }}</text>
{% endfor %}
</svg>
{% endif %}

<h2>Rare items and coverage</h2>
<p>Quality by how often the item to be found{{ ", here the next one of each user," if domain.cut }} occurs in training: 0 is a cold item, known by its text alone.</p>
<div class="wide">
<table>
<tr><th>training interactions</th><th>users</th><th>Recall@10</th><th>NDCG@10</th></tr>
{% for name, row in facts.cold.items() %}
<tr><td>{{ name }}</td><td>{{ "{:,}".format(row.num_users) }}</td><td>{{ "%.4f"|format(row["recall@10_seen_masked"]) }}</td>
<td>{{ "%.4f"|format(row["ndcg@10_seen_masked"]) }}</td></tr>
{% endfor %}
</table>
</div>
<p>The ten best items of {{ "{:,}".format(facts.coverage["users"]) }} users are
{{ "{:,}".format(facts.coverage["items"]) }} different ones, {{ "%.1f"|format(100 * facts.coverage["share"]) }} % of the
catalogue.</p>

<h2>Examples</h2>
<div class="wide">
<table class="examples">
<tr><th>history, oldest first</th><th>what came next</th><th>recommended, with scores</th></tr>
{% for example in facts.examples %}
<tr><td><ol>{% for text in example.history %}<li>{{ text }}</li>{% endfor %}</ol></td><td>{{ example.target }}</td>
<td><ol>{% for text, score in example.recommended %}
<li><span{% if text == example.target %} class="hit"{% endif %}>{{ text }}</span>
<span class="faint">{{ "%.2f"|format(score) }}</span></li>{% endfor %}</ol></td></tr>
{% endfor %}
</table>
</div>

<h2>Data</h2>
<ul>{% for line in facts.columns %}<li>{{ line }}</li>{% endfor %}</ul>
<pre>{{ domain.report() }}</pre>
</body>
</html>
"""


__all__ = ["Attempt", "Example", "FitFacts", "write_fit_report"]
