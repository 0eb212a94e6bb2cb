"""Processed folders of the official code, against a slow reading of the same files."""

import argparse
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from unisrec.commands import prepare
from unisrec.data import Domain, given_features, leave_one_out, read_recbole
from unisrec.data.given_features import given_text_features
from unisrec.data.readers import official_histories, official_items, official_rows
from unisrec.data.readers.official import read_official


LONGEST = 50
WIDTH = 768


class Folder:
    """One dataset in the layout that the published preprocessing leaves."""

    def __init__(
        self, path: Path, histories: list[list[int]], num_items: int, files="text item2index user2index feat1CLS"
    ):
        path.mkdir(parents=True)
        self.path, self.name = path, path.name
        rng = np.random.default_rng(num_items)
        self.features = {end: rng.normal(size=(num_items, WIDTH)).astype("<f4") for end in ("feat1CLS", "feat2CLS")}
        self.texts = [f'Item {row}. Shop > "Aisle" & {row % 3}..  . ' for row in range(num_items)]
        rows = {"train": [], "valid": [], "test": []}
        for user, history in enumerate(histories):
            *train, valid, test = map(str, history)
            for back in range(1, len(train)):
                rows["train"].append((user, train[:-back][-LONGEST:], train[-back]))
            rows["valid"].append((user, train[-LONGEST:], valid))
            rows["test"].append((user, [*train, valid][-LONGEST:], test))
        for split, lines in rows.items():
            self.write_rows(split, [f"{user}\t{' '.join(items)}\t{target}" for user, items, target in lines])
        wanted = files.split()
        if "item2index" in wanted:
            self.write("item2index", [f"B{row:03}\t{row}" for row in range(num_items)])
        if "user2index" in wanted:
            self.write("user2index", [f"A{row}X\t{row}" for row in range(len(histories))])
        if "text" in wanted:  # in the order of the metadata, not of the index
            lines = [f"B{row:03}\t{text}" for row, text in enumerate(self.texts)]
            self.write("text", ["item_id:token\ttext:token_seq", *lines[::-1]])
        for end in ("feat1CLS", "feat2CLS"):
            if end in wanted:
                self.features[end].tofile(path / f"{self.name}.{end}")

    def file(self, end: str) -> Path:
        return self.path / f"{self.name}.{end}"

    def lines(self, end: str) -> list[str]:
        return self.file(end).read_text().splitlines()

    def write(self, end: str, lines: list[str], line_end: str = "\n") -> None:
        self.file(end).write_bytes("".join(line + line_end for line in lines).encode())

    def write_rows(self, split: str, lines: list[str]) -> None:
        self.write(f"{split}.inter", ["user_id:token\titem_id_list:token_seq\titem_id:token", *lines])


def make_histories(num_users: int, num_items: int, seed: int = 0) -> list[list[int]]:
    """Users with one item to train on, and users with more than fit into a row; every item occurs."""
    rng = np.random.default_rng(seed)
    lengths = [3, 4, 52, 53, 120, *rng.integers(3, 30, size=num_users - 5)]
    histories = [rng.integers(num_items, size=length).tolist() for length in lengths]
    histories[4][:num_items] = range(num_items)
    return histories


@pytest.fixture
def shop(tmp_path):
    return Folder(tmp_path / "Shop", make_histories(12, 20), 20)


@pytest.fixture
def merge(tmp_path):
    """Writes the merged folder of several datasets, as the published script does."""

    def merge(folders: list[Folder], splits=("train", "valid", "test")) -> Path:
        name = "".join(folder.name[0] for folder in folders)
        path = tmp_path / name
        path.mkdir()
        for split in splits:
            lines = ["user_id:token\titem_id_list:token_seq\titem_id:token"]
            for number, folder in enumerate(folders):
                for line in folder.lines(f"{split}.inter")[1:]:
                    user, items, target = line.split("\t")
                    items = " ".join(f"{number}-{item}" for item in items.split(" "))
                    lines.append(f"{number}-{user}\t{items}\t{number}-{target}")
            (path / f"{name}.{split}.inter").write_text("\n".join(lines) + "\n")
        (path / f"{name}.pt_datasets").write_text(",".join(folder.name for folder in folders) + "\n")
        return path

    return merge


def slow_rows(folder: Folder, split: str) -> list[tuple[str, list[int], int]]:
    rows = [line.split("\t") for line in folder.lines(f"{split}.inter")[1:]]
    return [(user, [int(item) for item in items.split(" ")], int(target)) for user, items, target in rows]


def domain_rows(domain: Domain, split: str, users: list[str]) -> list[tuple[str, list[int], int]]:
    """What the files must have said, from the splits of the domain."""
    part = leave_one_out(domain, split)
    rows = []
    for place, user in enumerate(part.users):
        history = part.flat[part.offsets[place] : part.offsets[place + 1]].tolist()
        if split == "train":
            rows += [(users[user], history[:cut][-LONGEST:], history[cut]) for cut in range(len(history) - 1, 0, -1)]
        else:
            rows.append((users[user], history[-LONGEST:], int(part.targets[place])))
    return rows


@pytest.mark.parametrize(("block_bytes", "items_per_check"), [(1 << 24, 1 << 22), (100, 7)])
def test_splits_are_those_of_the_files(shop, monkeypatch, block_bytes, items_per_check):
    monkeypatch.setattr(official_rows, "_BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(official_histories, "_ITEMS_PER_CHECK", items_per_check)
    (domain,) = read_official(shop.path)
    for split in ("train", "valid", "test"):
        assert domain_rows(domain, split, [str(user) for user in range(12)]) == slow_rows(shop, split)
    assert max(len(history) for history in domain.sequences["item_index"]) == 120


def test_catalogue_is_that_of_the_files(shop):
    (domain,) = read_official(shop.path)
    assert domain.name == "Shop"
    assert domain.items["item_id"].to_list() == [f"B{row:03}" for row in range(20)]
    assert domain.items["text"].to_list() == [text.strip() for text in shop.texts]
    assert domain.sequences["user_id"].to_list() == [f"A{row}X" for row in range(12)]
    np.testing.assert_array_equal(domain.given_features["item_embeddings"], shop.features["feat1CLS"])
    digest = hashlib.sha256(shop.file("feat1CLS").read_bytes()).hexdigest()
    assert domain.info["given_features_source"] == {"item_embeddings": {"file": "Shop.feat1CLS", "sha256": digest}}
    assert domain.info["files"][:2] == ["Shop.train.inter", "Shop.valid.inter"]


def test_numbers_in_any_order(shop):
    places = np.random.default_rng(1).permutation(20)
    shop.write("item2index", [f"B{row:03}\t{row}" for row in places])
    (domain,) = read_official(shop.path)
    assert domain.items["item_id"].to_list() == [f"B{row:03}" for row in range(20)]


def test_line_ends(shop):
    (expected,) = read_official(shop.path)
    for end in ("train.inter", "text", "item2index", "user2index"):
        shop.write(end, shop.lines(end), "\r\n")
    mixed = shop.file("valid.inter").read_bytes().replace(b"\n", b"\r\n", 5) + b"\r\n\n"
    shop.file("valid.inter").write_bytes(mixed)
    (domain,) = read_official(shop.path)
    assert domain.content_hash == expected.content_hash
    assert domain.items["text"].to_list() == expected.items["text"].to_list()


def test_tabs_belong_to_the_text(shop):
    shop.write("text", [line.replace("Aisle", "Aisle\t7") for line in shop.lines("text")])
    (domain,) = read_official(shop.path)
    assert domain.items["text"][3] == 'Item 3. Shop > "Aisle\t7" & 0..  .'


def test_users_without_names_keep_their_numbers(shop):
    shop.file("user2index").unlink()
    (domain,) = read_official(shop.path)
    assert domain.sequences["user_id"].to_list() == [str(row) for row in range(12)]


def test_items_in_no_history_are_no_candidates(tmp_path):
    histories = [[0, 2, 5, 2], [5, 0, 2]]
    folder = Folder(tmp_path / "Shop", histories, 6, "text item2index feat1CLS")
    (domain,) = read_official(folder.path)
    assert domain.items["item_id"].to_list() == ["B000", "B002", "B005"]
    assert domain.sequences["item_index"].to_list() == [[0, 1, 2, 1], [2, 0, 1]]
    np.testing.assert_array_equal(domain.given_features["item_embeddings"], folder.features["feat1CLS"][[0, 2, 5]])
    assert domain.info["item_steps"][-1] == {"step": "in no history", "dropped": 3, "left": 3}


def test_missing_texts(shop):
    lines = [line.split("\t")[0] if line.startswith("B003") else line for line in shop.lines("text")]
    lines = ["B007\tnan" if line.startswith("B007") else line for line in lines]
    shop.write("text", lines[:-1])
    with pytest.raises(ValueError, match=r"Shop.text: no text for item 'B000', as for 3 of 20; .*missing_text='keep'"):
        read_official(shop.path)
    (domain,) = read_official(shop.path, missing_text="keep")
    assert [domain.items["text"][row] for row in (0, 3, 7)] == ["B000", "B003", "B007"]
    assert domain.items["text"][4] == shop.texts[4].strip()
    shop.write("text", ["item_id:token\ttext:token_seq", "B000\t \t", *lines[1:-1], "C1\tunknown"])
    with pytest.raises(ValueError, match=r"Shop.text, line 2: no text for item 'B000', as for 3 of 20"):
        read_official(shop.path)
    (domain,) = read_official(shop.path, missing_text="keep")
    assert domain.info["item_steps"][0] == {"step": "texts of items not in item2index", "dropped": 1, "left": 20}
    with pytest.raises(ValueError, match=r"missing_text is 'drop', expected 'error' or 'keep'"):
        read_official(shop.path, missing_text="drop")


def test_text_vectors_are_enough(tmp_path):
    folder = Folder(tmp_path / "Shop", make_histories(6, 9), 9, "feat1CLS feat2CLS")
    with pytest.raises(ValueError, match=r"Shop.text \(no such file\): no text for item '0', as for 9 of 9"):
        read_official(folder.path)
    (domain,) = read_official(folder.path, missing_text="keep")
    assert domain.items["item_id"].to_list() == domain.items["text"].to_list() == [str(row) for row in range(9)]
    np.testing.assert_array_equal(domain.given_features["word_drop_embeddings"], folder.features["feat2CLS"])


@pytest.fixture
def sources(tmp_path):
    return [
        Folder(tmp_path / "Food", make_histories(8, 15, seed=1), 15, "text item2index user2index feat1CLS feat2CLS"),
        Folder(tmp_path / "Home", make_histories(9, 11, seed=2), 11, "text item2index user2index feat1CLS feat2CLS"),
    ]


def test_merged_folder_gives_its_source_datasets(sources, merge):
    folder = merge(sources)
    sources[0].file("feat1CLS").rename(folder / "Food.feat1CLS")
    domains = read_official(folder)
    (folder / "Food.feat1CLS").rename(sources[0].file("feat1CLS"))
    assert [domain.name for domain in domains] == ["Food", "Home"]
    for domain, source in zip(domains, sources, strict=True):
        (expected,) = read_official(source.path)
        assert domain.content_hash == expected.content_hash
        assert domain.held_out
        for name in ("item_embeddings", "word_drop_embeddings"):
            np.testing.assert_array_equal(domain.given_features[name], expected.given_features[name])


@pytest.mark.parametrize("empty_files", [False, True])
def test_merged_folder_without_held_out_rows(sources, merge, tmp_path, empty_files):
    folder = merge(sources, splits=["train"])
    if empty_files:
        for split in ("valid", "test"):
            (folder / f"FH.{split}.inter").write_text("user_id:token\titem_id_list:token_seq\titem_id:token\n")
    for domain, source in zip(read_official(folder), sources, strict=True):
        rows = slow_rows(source, "train")
        users = list(dict.fromkeys(user for user, _, _ in rows))  # a user with one item to train on has no row
        domain.save_to_disk(tmp_path / f"{domain.name}.domain")
        loaded = Domain.load_from_disk(tmp_path / f"{domain.name}.domain")
        assert loaded.sequences["user_id"].to_list() == [f"A{user}X" for user in users]
        assert domain_rows(loaded, "train", users) == rows
        assert leave_one_out(loaded, "all").flat.tolist() == leave_one_out(loaded, "train").flat.tolist()
        assert "0 users can be evaluated" in loaded.report()
        with pytest.raises(ValueError, match=f"'{source.name}' holds nothing out, so it has no 'test' split"):
            leave_one_out(loaded, "test")


def test_merged_folder_that_does_not_fit(sources, merge):
    folder = merge(sources)
    names = folder / "FH.pt_datasets"
    for text, message in {
        "Food,Hime\n": r"Hime: no Hime.feat1CLS, or Hime.text and Hime.item2index; put the files of Hime there",
        "Food\n": rf"FH.train.inter, line {len(sources[0].lines('train.inter')) + 1}: user '1-1' belongs to none of the 1",
        "Food,Home,Food": r"FH.pt_datasets: 'Food,Home,Food', expected different names of datasets separated by commas",
        "Food,../Home": r"FH.pt_datasets: 'Food,../Home', expected different names",
        "": r"FH.pt_datasets: '', expected different names",
    }.items():
        names.write_text(text)
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            read_official(folder)
    names.write_text("Food,Home")
    path = folder / "FH.train.inter"
    good = path.read_text()
    path.write_text(good.replace("\n0-1\t0-", "\n0-1\t1-", 1))
    with pytest.raises(ValueError, match=r"FH.train.inter, line 2: item '1-\d+', expected 0-0 to 0-14"):
        read_official(folder)
    path.write_text("\n".join(line for line in good.splitlines() if not line.startswith("1-")) + "\n")
    with pytest.raises(ValueError, match=r"FH.valid.inter, line \d+: user '1' has the history"):
        read_official(folder)


TWO = [[1, 2, 3, 4, 0], [4, 3, 2, 1]]
# user_id, item_id_list, item_id of `TWO`:
#   train 0: "1 2" -> 3, "1" -> 2;  1: "4" -> 3      valid 0: "1 2 3" -> 4;  1: "4 3" -> 2      test ...


@pytest.mark.parametrize(
    ("split", "number", "line", "message"),
    [
        ("train", 2, "0\t1 9\t3", r"train.inter, line 2: item '9', expected 0 to 4"),
        ("train", 2, "0\t1 2\t-3", r"train.inter, line 2: item '-3', expected 0 to 4"),
        ("train", 4, "1\t\t3", r"train.inter, line 4: item '', expected 0 to 4, separated by single spaces"),
        ("train", 2, "0\t1  2\t3", r"train.inter, line 2: item ''"),
        ("train", 3, "0\t1", r"train.inter, line 3: 2 fields, expected 3"),
        ("train", 3, "0\t1\t2\t", r"train.inter, line 3: 4 fields, expected 3"),
        ("train", 1, "user_id\titem_id", r"train.inter, line 1: 'user_id\\titem_id', expected the header"),
        ("train", 2, "0\t4 2\t3", r"train.inter, line 2: user '0' has the history '4 2', expected '1 2'"),
        ("train", 3, "0\t1\t4", r"train.inter, line 2: user '0' has the history '1 2', expected '1 4'"),
        ("train", 3, None, r"train.inter, line 2: user '0' has the history '1 2', expected '1'"),
        ("train", 4, "2\t4\t3", r"train.inter, line 4: user '2' has no row in .*Shop.test.inter, expected one valid"),
        ("valid", 2, "0\t1 2\t4", r"valid.inter, line 2: user '0' has the history '1 2', expected '1 2 3'"),
        ("valid", 3, None, r"valid.inter: user '1' has no row, expected one as in .*Shop.test.inter"),
        ("valid", 3, "0\t4 3\t2", r"valid.inter, line 3: user '0' has a second row"),
        (
            "test",
            2,
            "0\t1 2 3\t0",
            r"test.inter, line 2: user '0' has the history '1 2 3', expected '2 3 4'; .* at most 3 items",
        ),
        ("test", 3, None, r"train.inter, line 4: user '1' has no row in .*Shop.test.inter"),
        ("test", 3, "0\t4 3 2\t1", r"test.inter, line 3: user '0' has a second row"),
    ],
)
@pytest.mark.parametrize("user2index", [True, False])
def test_rows_that_are_not_leave_one_out(tmp_path, split, number, line, message, user2index):
    shop = Folder(tmp_path / "Shop", TWO, 5, "text item2index" + " user2index" * user2index)
    lines = shop.lines(f"{split}.inter")
    lines[number - 1 : number] = [] if line is None else [line]
    shop.write(f"{split}.inter", lines)
    with pytest.raises(ValueError, match=message) as caught:
        read_official(shop.path)
    assert "\n" not in str(caught.value)


def test_rows_in_another_order(tmp_path):
    shop = Folder(tmp_path / "Shop", TWO, 5)
    header, *rows = shop.lines("train.inter")
    shop.write("train.inter", [header, *rows[::-1]])
    with pytest.raises(ValueError, match=r"line 3: user '0' has the history '1', expected .*longest first"):
        read_official(shop.path)
    shop.write("train.inter", [header, rows[2], *rows[:2]])  # of the users it does not matter
    assert read_official(shop.path)[0].sequences["item_index"].to_list() == TWO


def test_history_that_is_cut_elsewhere(tmp_path):
    shop = Folder(tmp_path / "Shop", [list(range(5)) * 20, [0, 1, 2]], 5)
    header, *rows = shop.lines("valid.inter")
    shop.write("valid.inter", [header, rows[0].replace("3 ", "", 1), rows[1]])
    with pytest.raises(
        ValueError,
        match=r"valid.inter, line 2: user '0' has the history '... 2 3 4 0 1 2' \(49 items\), expected .*\(50",
    ):
        read_official(shop.path)


def cut_features(shop):
    shop.file("feat1CLS").write_bytes(shop.file("feat1CLS").read_bytes()[:-4])


def short_features(shop):
    shop.features["feat1CLS"][:-1].tofile(shop.file("feat1CLS"))


def infinite_features(shop):
    shop.features["feat1CLS"][17, 3] = np.inf
    shop.features["feat1CLS"].tofile(shop.file("feat1CLS"))


def repeated_number(shop):
    shop.write("item2index", [*shop.lines("item2index")[:-1], "B019\t3"])


def gap_in_numbers(shop):
    shop.write("item2index", [*shop.lines("item2index")[:-1], "B019\t20"])


def repeated_id(shop):
    shop.write("item2index", [*shop.lines("item2index")[:-1], "B003\t19"])


def index_of_one_field(shop):
    shop.write("user2index", [*shop.lines("user2index"), "A99"])


def too_few_users(shop):
    shop.write("user2index", shop.lines("user2index")[:-1])


def too_many_users(shop):
    shop.write("user2index", [*shop.lines("user2index"), "A99\t12"])


def repeated_text(shop):
    shop.write("text", [*shop.lines("text"), "B003\tagain"])


def header_of_text(shop):
    shop.write("text", shop.lines("text")[1:])


def carriage_return(shop):
    shop.write("text", [line.replace("Item 18", "Item\r18") for line in shop.lines("text")])


def latin_1(shop):
    shop.file("text").write_bytes(shop.file("text").read_bytes().replace(b"Item 17", b"It\xe9m 17"))


def no_item2index(shop):
    shop.file("item2index").unlink()


def no_items(shop):
    for end in ("item2index", "text", "feat1CLS"):
        shop.file(end).unlink()


def no_valid(shop):
    shop.file("valid.inter").unlink()


def empty_train(shop):
    shop.file("train.inter").write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_features, r"Shop.feat1CLS: 61,436 bytes, expected 20 items of 3,072 bytes \(768 float32 numbers\)"),
        (short_features, r"Shop.feat1CLS: 58,368 bytes, expected 20 items of 3,072 bytes"),
        (infinite_features, r"Shop.feat1CLS, row 17: numbers that are not finite"),
        (repeated_number, r"Shop.item2index, line 20: \['B019', '3'\]: the number is not one of 0 to 19, each"),
        (gap_in_numbers, r"Shop.item2index, line 20: \['B019', '20'\]: the number is not one of 0 to 19"),
        (repeated_id, r"Shop.item2index, line 20: \['B003', '19'\]: the id was on a line before"),
        (index_of_one_field, r"Shop.user2index, line 13: .*expected an id, a tab and a number"),
        (too_few_users, r"Shop.user2index: no user has number '11', which the .inter files use"),
        (too_many_users, r"Shop.user2index has 13 users, the .inter files only 12"),
        (repeated_text, r"Shop.text, line 22: item 'B003' was on a line before"),
        (header_of_text, r"Shop.text, line 1: .*expected the header 'item_id:token"),
        (carriage_return, r"Shop.text, line 3: a carriage return inside the line"),
        (latin_1, r"Shop.text, line 4: not UTF-8"),
        (no_item2index, r"no Shop.item2index; put the files of Shop there"),
        (no_items, r"no Shop.feat1CLS, or Shop.text and Shop.item2index; put"),
        (no_valid, r"Shop.valid.inter: no such file"),
        (empty_train, r"Shop.train.inter: the file is empty"),
    ],
)
def test_damaged_files(shop, damage, message, monkeypatch):
    monkeypatch.setattr(official_items, "_ROWS_PER_CHECK", 8)
    damage(shop)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        read_official(shop.path)
    assert "\n" not in str(caught.value)


def test_other_folders(shop, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent: no such folder, or no NAME.train.inter in it"):
        read_official(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"Shop: a folder of the official UniSRec code, .*use read_official"):
        read_recbole(shop.path)
    (shop.path / "Other.test.inter").touch()
    with pytest.raises(ValueError, match=r"several datasets \(Other, Shop\), expected one"):
        read_official(shop.path)


def test_given_features_are_kept_in_the_domain_folder(sources, tmp_path):
    (domain,) = read_official(sources[0].path)
    domain.save_to_disk(tmp_path / "domain")
    loaded = Domain.load_from_disk(tmp_path / "domain")
    for name, end, word_drop in (("item_embeddings", "feat1CLS", False), ("word_drop_embeddings", "feat2CLS", True)):
        features = given_text_features(loaded, WIDTH, word_drop=word_drop)
        assert isinstance(features, np.memmap)
        assert not features.flags.writeable
        assert features is loaded.given_features[name]
        np.testing.assert_array_equal(features, sources[0].features[end])
    assert "item_embeddings: 15 x 768" in loaded.report()
    with pytest.raises(
        ValueError, match=r"came with 'Food' have 768 numbers, the model takes 384; name a text encoder"
    ):
        given_text_features(loaded, 384)


def test_domain_without_given_features(make_domain):
    assert given_text_features(make_domain(), 16) is None
    assert given_text_features(make_domain(), 16, word_drop=True) is None


def test_damaged_given_features(shop, tmp_path):
    (domain,) = read_official(shop.path)
    path = tmp_path / "domain" / "item_embeddings.npy"
    domain.save_to_disk(path.parent)
    whole = path.read_bytes()
    for content in (b"", whole[:-100]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"damaged domain folder \(item_embeddings.npy is damaged\)"):
            Domain.load_from_disk(path.parent)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"item_embeddings.npy: no such file"):
        Domain.load_from_disk(path.parent)
    np.save(path, np.zeros((19, WIDTH), dtype=np.float32))
    with pytest.raises(ValueError, match=r"item_embeddings: float32 of shape \(19, 768\), expected .*\(20, text_emb"):
        Domain.load_from_disk(path.parent)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_given_features_that_are_not_finite(make_domain, monkeypatch, value):
    monkeypatch.setattr(given_features, "_ROWS_PER_CHECK", 8)
    vectors = np.ones((30, 4), np.float32)
    domain = replace(make_domain(num_items=30), given_features={"item_embeddings": vectors})
    assert given_text_features(domain, 4) is vectors
    vectors[17, 2] = value
    item = domain.items["item_id"][17]
    with pytest.raises(ValueError, match=rf"item_embeddings of .*: the vector of item '{item}' is not finite"):
        given_text_features(domain, 4)


def test_invalid_given_features(make_domain):
    domain = make_domain(num_items=30)
    for given, message in {
        "item_embeddings": (np.zeros((30, 4)), r"item_embeddings: float64 of shape \(30, 4\), expected float32"),
        "embeddings": (np.zeros((30, 4), np.float32), r"'embeddings', expected 'item_embeddings' or 'word_drop_emb"),
    }.items():
        with pytest.raises(ValueError, match=message[1]):
            Domain("x", domain.items, domain.sequences, given_features={given: message[0]})


@pytest.fixture
def run():
    parser = argparse.ArgumentParser()
    parser.set_defaults(verb="prepare")
    prepare.add_arguments(parser)
    return lambda *words: prepare.run(parser.parse_args(["recbole", *map(str, words)]))


def test_prepare_downstream_folder(run, shop, tmp_path):
    result = run("--input", shop.path, "--output", tmp_path / "shop")
    loaded = Domain.load_from_disk(tmp_path / "shop")
    (expected,) = read_official(shop.path)
    assert (loaded.name, loaded.content_hash) == ("shop", expected.content_hash)
    assert result.text == f"{loaded.report()}\n\nwritten to {tmp_path / 'shop'}"
    assert [domain["num_items"] for domain in result.data["domains"]] == [loaded.num_items]
    assert json.loads((tmp_path / "shop" / "domain.json").read_text())["given_features"] == ["item_embeddings"]


def test_prepare_merged_folder(run, sources, merge, tmp_path):
    folder = merge(sources)
    result = run("--input", folder, "--output", tmp_path / "fh")
    assert sorted(path.name for path in (tmp_path / "fh").iterdir()) == ["Food", "Home"]
    assert Domain.load_from_disk(tmp_path / "fh" / "Home").num_items == 11
    assert result.text.endswith(f"written to {tmp_path / 'fh'}: Food Home")
    assert [domain["output"] for domain in result.data["domains"]] == [
        str(tmp_path / "fh" / name) for name in ("Food", "Home")
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--user-k", 5], r"read as it is; leave out --user-k"),
        (["--item-k", 1, "--text-columns", "text"], r"leave out --item-k, --text-columns"),
        (["--missing-text", "drop"], r"missing_text is 'drop'"),
        (["--name", "x"], r"--name x: .* holds 2 domains"),
    ],
)
def test_prepare_refuses_what_does_not_apply(run, sources, merge, tmp_path, options, message):
    folder = merge(sources)
    with pytest.raises(ValueError, match=message):
        run("--input", folder, "--output", tmp_path / "fh", *options)
    assert not (tmp_path / "fh").exists()
