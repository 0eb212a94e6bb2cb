import numpy as np
import pytest

from unisrec.trainer import PretrainCollator


def text_vectors(items):
    """The number of the item is its text."""
    return np.stack([items, np.zeros(len(items))], axis=1).astype(np.float32)


def word_drop_vectors(items):
    """The same number with a mark."""
    return np.stack([items, np.ones(len(items))], axis=1).astype(np.float32)


def make_windows(num_windows, longest=12, seed=0, first_index=0):
    """Windows in which no item comes twice, so that a view shows which places it has kept."""
    rng = np.random.default_rng(seed)
    return [
        {
            "items": rng.permutation(100)[: rng.integers(2, longest + 1)],
            "first_target": 1,
            "sequence": 1000 + number,
            "index": first_index + number,
        }
        for number in range(num_windows)
    ]


def read(batch):
    """Items of originals and of views, and whether words were left out, as lists without padding."""
    vectors = batch["text_embeds"].numpy()
    rows = batch["item_index"].numpy()
    lists = []
    for row in rows:
        real = row[row > 0]
        assert (row[: len(real)] > 0).all()  # padding is on the right
        lists.append([(int(item), bool(mark)) for item, mark in vectors[real - 1]])
    return lists[: len(lists) // 2], lists[len(lists) // 2 :]


def test_originals_targets_and_numbers():
    windows = make_windows(20)
    batch = PretrainCollator(text_vectors, word_drop_vectors, item_drop_probability=0.5)(windows)
    originals, _ = read(batch)
    vectors = batch["text_embeds"].numpy()
    length = batch["item_index"].shape[1]
    assert length == max(len(window["items"]) for window in windows) - 1
    assert originals == [[(item, False) for item in window["items"][:-1].tolist()] for window in windows]
    places, target_items, sequences = [], [], []
    for row, window in enumerate(windows):
        for place, item in enumerate(window["items"][1:].tolist()):
            places.append(row * length + place)
            target_items.append(item)
            sequences.append(window["sequence"])
    assert batch["query_index"].tolist() == places
    assert batch["target_items"].tolist() == target_items
    assert batch["target_sequences"].tolist() == sequences
    assert vectors[batch["target_rows"], 0].tolist() == target_items
    assert not vectors[batch["target_rows"], 1].any()


def test_text_of_an_item_is_there_once():
    windows = [{"items": np.array([7, 3, 7, 5]), "first_target": 1, "sequence": 0, "index": 0}] * 3
    batch = PretrainCollator(text_vectors, word_drop_vectors, 0.0, word_drop_item_ratio=0.99)(windows)
    rows = [tuple(row) for row in batch["text_embeds"].tolist()]
    assert len(rows) == len(set(rows))
    assert {row for row in rows if row[1] == 0} == {(3.0, 0.0), (5.0, 0.0), (7.0, 0.0)}
    assert (5.0, 1.0) not in rows  # the last item of a window is a target, not an input


def test_prefix_of_a_view_ends_at_the_last_kept_item():
    windows = make_windows(200)
    batch = PretrainCollator(text_vectors, item_drop_ratio=0.5)(windows)
    originals, views = read(batch)
    length = batch["item_index"].shape[1]
    expected = []
    for row, (original, view) in enumerate(zip(originals, views, strict=True)):
        assert view[0] == original[0]
        assert view == [entry for entry in original if entry in view]  # in order
        for place in range(len(original)):
            kept = [entry for entry in original[: place + 1] if entry in view]
            expected.append(row * length + len(kept) - 1)
    assert batch["view_index"].tolist() == expected
    assert any(len(view) < len(original) for original, view in zip(originals, views, strict=True))


def test_first_item_is_never_dropped():
    originals, views = read(PretrainCollator(text_vectors, item_drop_ratio=0.999)(make_windows(50)))
    assert [view[0] for view in views] == [original[0] for original in originals]
    assert np.mean([len(view) for view in views]) < 1.1


def test_no_drop_gives_the_original_again():
    batch = PretrainCollator(text_vectors, item_drop_ratio=0.0)(make_windows(20))
    originals, views = batch["item_index"].chunk(2)
    assert originals.equal(views)
    assert batch["view_index"].equal(batch["query_index"])


def test_shares_of_views_items_and_words():
    originals, views = read(PretrainCollator(text_vectors, word_drop_vectors)(make_windows(4000)))
    kinds = {"item drop": 0, "word drop": 0}
    dropped = words_changed = 0
    for original, view in zip(originals, views, strict=True):
        assert not any(mark for _, mark in original)
        if any(mark for _, mark in view):
            kinds["word drop"] += 1
            assert [item for item, _ in view] == [item for item, _ in original]
            words_changed += sum(mark for _, mark in view)
        elif len(view) < len(original):
            kinds["item drop"] += 1
            dropped += len(original) - len(view)
    assert kinds["item drop"] > 5 * kinds["word drop"] > 0
    # Only views that show what they are could be counted: the expectation is taken over those alone.
    lengths = np.array([len(original) for original in originals])
    shown_items = 1 - 0.8 ** (lengths - 1)
    shown_words = 1 - 0.8**lengths
    assert kinds["item drop"] / shown_items.sum() == pytest.approx(0.9, abs=0.02)
    assert kinds["word drop"] / shown_words.sum() == pytest.approx(0.1, abs=0.02)
    assert dropped / (0.9 * (lengths - 1).sum()) == pytest.approx(0.2, abs=0.01)
    assert words_changed / (0.1 * lengths.sum()) == pytest.approx(0.2, abs=0.02)


def test_without_word_drop_texts_all_views_drop_items():
    windows = make_windows(300)
    _, views = read(PretrainCollator(text_vectors, None, item_drop_probability=0.1)(windows))
    _, all_dropped = read(PretrainCollator(text_vectors, None, item_drop_probability=1.0)(windows))
    assert views == all_dropped
    assert not any(mark for view in views for _, mark in view)


@pytest.mark.parametrize("draw", ["sequence", "batch"])
def test_draws_depend_on_seed_epoch_and_window_alone(draw):
    windows = make_windows(40)
    collator = PretrainCollator(text_vectors, word_drop_vectors, 0.5, augmentation_draw=draw, seed=3)
    _, together = read(collator(windows))
    assert read(collator(windows))[1] == together
    longest = max(windows, key=lambda window: len(window["items"]))
    if draw == "sequence":
        for place in (0, 7, 39):
            assert read(collator([windows[place]]))[1] == [together[place]]  # alone, without padding
        _, backwards = read(collator([*windows[:2], longest, *windows[::-1]]))
        assert backwards[:2:-1] == together
    next_epoch = [window | {"index": window["index"] + 40} for window in windows]
    assert read(collator(next_epoch))[1] != together
    other_seed = PretrainCollator(text_vectors, word_drop_vectors, 0.5, augmentation_draw=draw, seed=4)
    assert read(other_seed(windows))[1] != together


def kind_of_views(collator, windows):
    """The kinds that the views of a batch show."""
    originals, views = read(collator(windows))
    kinds = set()
    for original, view in zip(originals, views, strict=True):
        if any(mark for _, mark in view):
            kinds.add("word drop")
        elif len(view) < len(original):
            kinds.add("item drop")
    return kinds


def test_draw_for_a_batch_gives_one_kind_of_view():
    collator = PretrainCollator(text_vectors, word_drop_vectors, 0.7, augmentation_draw="batch")
    kinds = [kind_of_views(collator, make_windows(12, first_index=12 * step)) for step in range(200)]
    assert all(len(kind) == 1 for kind in kinds)
    assert np.mean([kind == {"item drop"} for kind in kinds]) == pytest.approx(0.7, abs=0.1)
    by_sequence = PretrainCollator(text_vectors, word_drop_vectors, 0.7)
    assert len(kind_of_views(by_sequence, make_windows(12))) == 2
