"""k-core and leave-one-out split of interactions, ours against plain Python dictionaries, and of many rows in little memory.

    python benchmarks/kcore.py
    python benchmarks/kcore.py --large-rows 0      # without the large one

Random interactions with string ids, users and items by popularity. The large run is ours alone, in a process of its own: peak
memory is that of the whole process, the raw rows included.
"""

from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np
import polars as pl
from _timing import compare, count, header, parser, seconds, timed

from unisrec.data import Domain, Split, build_domain, leave_one_out


K = 5


def interactions(num_rows: int) -> pl.DataFrame:
    """Random rows: about ten a user; ids are strings as in the files of shops."""
    rng = np.random.default_rng(0)
    num_users, num_items = num_rows // 10, max(num_rows // 40, 20)
    columns = {
        "user_id": (num_users * rng.random(num_rows) ** 2).astype(np.uint32),
        "item_id": (num_items * rng.random(num_rows) ** 2).astype(np.uint32),
        "time": rng.integers(1_000_000_000, 1_700_000_000, num_rows),
    }
    frame = pl.DataFrame(columns)
    return frame.with_columns(
        user_id=pl.format("U{}", pl.col("user_id").cast(pl.String).str.zfill(12)),
        item_id=pl.format("B{}", pl.col("item_id").cast(pl.String).str.zfill(9)),
    )


def item_texts(rows: pl.DataFrame) -> pl.DataFrame:
    """A text for each item."""
    return rows.select(pl.col("item_id").unique()).with_columns(text=pl.format("Thing {}", "item_id"))


def ours(rows: pl.DataFrame, items: pl.DataFrame) -> tuple[Domain, list[Split]]:
    """Domain and the three parts of its split."""
    domain = build_domain(rows, items, name="random", source="random", user_k=K, item_k=K)
    return domain, [leave_one_out(domain, split) for split in ("train", "valid", "test")]


def reference(
    rows: list[tuple[str, str, int]], texts: dict[str, str]
) -> tuple[dict[str, list[str]], list[list[tuple]]]:
    """The same with dictionaries and lists."""
    kept = [row for row in dict.fromkeys(rows) if texts.get(row[1])]
    while True:
        users, items = Counter(user for user, _, _ in kept), Counter(item for _, item, _ in kept)
        left = [row for row in kept if users[row[0]] >= K and items[row[1]] >= K]
        if len(left) == len(kept):
            break
        kept = left
    histories: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for user, item, time in kept:
        histories[user].append((time, item))
    sequences = {}
    for user in sorted(histories):
        sequences[user] = [item for _, item in sorted(histories[user], key=lambda entry: entry[0])]
    numbers = {item: number for number, item in enumerate(sorted({item for _, item, _ in kept}))}
    splits: list[list[tuple]] = [[], [], []]
    for user, history in sequences.items():
        numbered = [numbers[item] for item in history]
        splits[0].append((user, numbered[:-2]))
        splits[1].append((user, numbered[:-2], numbered[-2]))
        splits[2].append((user, numbered[:-1], numbered[-1]))
    return sequences, splits


def prepare_ours(num_rows: int) -> Callable[[], None]:
    """For a process of its own: rows are made there, and count."""

    def run() -> None:
        rows = interactions(num_rows)
        items = item_texts(rows)
        took = timed(lambda: ours(rows, items))
        print(f"\n{num_rows:,} rows: k-core and split in {seconds(took)}", end="", flush=True)

    return run


def main() -> None:
    args = parser(__doc__)
    args.add_argument("--rows", type=int, default=500_000, help="Rows of the comparison.")
    args.add_argument("--large-rows", type=int, default=20_000_000, help="Rows of the run for memory; 0 for none.")
    args = args.parse_args()
    num_rows, large_rows = (2_000, 0) if args.smoke else (args.rows, args.large_rows)
    rows = interactions(num_rows)
    items = item_texts(rows)
    tuples, texts = rows.rows(), dict(items.rows())
    comparison = compare(
        f"k-core + split, {num_rows:,} rows",
        lambda: ours(rows, items),
        lambda: reference(tuples, texts),
        1 if args.smoke else args.rounds,
    )
    domain, splits = ours(rows, items)
    sequences, reference_splits = reference(tuples, texts)
    ids = domain.items["item_id"].to_list()
    assert [user for user, *_ in reference_splits[0]] == domain.sequences["user_id"].to_list()
    assert [[ids[item] for item in history] for history in domain.sequences["item_index"]] == list(sequences.values())
    assert [target for _, _, target in reference_splits[2]] == splits[2].targets.tolist()
    print(header(), comparison.row(), sep="\n", flush=True)
    if large_rows:
        cost = count(prepare_ours, large_rows)
        print(f", peak memory of the process with its rows {cost.peak_mb:,.0f} MB more than at the start")


if __name__ == "__main__":
    main()
