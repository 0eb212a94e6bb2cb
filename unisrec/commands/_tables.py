"""Tables printed to the terminal."""

from collections.abc import Mapping


COLUMNS = ("recall@10", "ndcg@10", "recall@50", "ndcg@50")


def metrics_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Formats metrics by row name, with seen items kept and masked side by side."""
    width = max(len(name) for name in rows)
    lines = [
        f"{'':{width}}  {'seen items kept':^36}  {'seen items masked':^36}",
        f"{'':{width}}  "
        + "  ".join(" ".join(f"{name:>9}" for name in ("R@10", "N@10", "R@50", "N@50")[:4]) for _ in "ab"),
    ]
    for name, metrics in rows.items():
        cells = [[f"{metrics[column + suffix]:9.4f}" for column in COLUMNS] for suffix in ("", "_seen_masked")]
        lines.append(f"{name:{width}}  " + "  ".join(" ".join(group) for group in cells))
    return "\n".join(lines)
