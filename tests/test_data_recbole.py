"""Atomic files, and the downstream folders of the official code."""

import pytest

from unisrec.data import build_domain, read_recbole


@pytest.fixture
def write(tmp_path):
    def write(name: str, *rows: str):
        (tmp_path / name).write_text("".join(row.replace("|", "\t") + "\n" for row in rows))
        return tmp_path

    return write


@pytest.fixture
def atomic(write):
    write(
        "ml.inter",
        "user_id:token|item_id:token|rating:float|timestamp:float",
        "1|10|4|881250949",
        "1|20|3|881250950.5",
    )
    return write(
        "ml.item",
        "item_id:token|movie_title:token_seq|year:token|score:float|class:token_seq",
        "10|Toy Story|1995|1.0|Animation Comedy",
        "20|GoldenEye|||",
    )


def test_atomic_files(atomic):
    interactions, items, info = read_recbole(atomic)
    assert interactions.rows() == [("1", "10", 881250949.0), ("1", "20", 881250950.5)]
    assert items.rows() == [("10", "Toy Story. 1995. Animation Comedy"), ("20", "GoldenEye")]
    assert info["text_columns"] == ["movie_title", "year", "class"]


def test_text_columns(atomic):
    assert (
        read_recbole(atomic, text_columns=["class", "movie_title"]).items["text"][0] == "Animation Comedy. Toy Story"
    )
    with pytest.raises(ValueError, match=r"ml.item: no column 'title', .* did you mean 'movie_title'\?"):
        read_recbole(atomic, text_columns=["title"])


def test_bad_folders(tmp_path, atomic, write):
    with pytest.raises(FileNotFoundError, match=r"no such folder"):
        read_recbole(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no .inter file"):
        read_recbole(tmp_path / "empty")
    write("other.inter", "x:token", "1")
    with pytest.raises(ValueError, match=r"several datasets \(ml, other\), expected one"):
        read_recbole(tmp_path)
    (tmp_path / "other.inter").unlink()
    (tmp_path / "ml.item").unlink()
    with pytest.raises(FileNotFoundError, match=r"ml.item: no such file"):
        read_recbole(tmp_path)


def test_bad_files(write, atomic):
    write("ml.item", "item_id:token|score:float", "10|1.0")
    with pytest.raises(ValueError, match=r"no :token or :token_seq column besides item_id"):
        read_recbole(atomic)
    write("ml.inter", "user_id:token|item_id:token", "1|10")
    with pytest.raises(ValueError, match=r"ml.inter: no column 'timestamp', the columns are user_id, item_id"):
        read_recbole(atomic)
    write("ml.inter", "user_id|item_id", "1|10")
    with pytest.raises(ValueError, match=r"ml.inter, line 1: 'user_id' has no type, expected tab-separated"):
        read_recbole(atomic)
    write("ml.inter", "user_id:token|item_id:token|timestamp:float", "1|10|1", "1|10|x")
    with pytest.raises(ValueError, match=r"ml.inter, line 3: 'timestamp' is 'x'"):
        read_recbole(atomic)


HISTORIES = {"0": list("abcabd"), "1": list("cba"), "2": [*"abcd" * 30]}


@pytest.fixture
def official(write):
    """The files that the published preprocessing writes for `HISTORIES`: prefixes of at most 50 items."""
    index = {item: str(n) for n, item in enumerate("dcba")}
    rows = {"train": [], "valid": [], "test": []}
    for user, history in HISTORIES.items():
        numbers = [index[item] for item in history]
        train = numbers[:-2]
        for back in range(1, len(train)):
            rows["train"].append(f"{user}|{' '.join(train[:-back][-50:])}|{train[-back]}")
        rows["valid"].append(f"{user}|{' '.join(train[-50:])}|{numbers[-2]}")
        rows["test"].append(f"{user}|{' '.join(numbers[:-1][-50:])}|{numbers[-1]}")
    for split, lines in rows.items():
        write(f"Shop.{split}.inter", "user_id:token|item_id_list:token_seq|item_id:token", *lines)
    write("Shop.item2index", *(f"{item}|{number}" for item, number in index.items()))
    return write("Shop.text", "item_id:token|text:token_seq", *(f"{item}|Item {item}. Acme. " for item in "abcd"))


def test_official_folder_gives_back_whole_histories(official):
    interactions, items, info = read_recbole(official)
    domain = build_domain(interactions, items, name="shop", source="recbole", user_k=1, item_k=1, info=info)
    ids = domain.items["item_id"].to_list()
    assert {user: [ids[row] for row in history] for user, history in domain.sequences.iter_rows()} == HISTORIES
    assert domain.items["text"].to_list() == ["Item a. Acme", "Item b. Acme", "Item c. Acme", "Item d. Acme"]
    assert info["steps"][0]["left"] == sum(map(len, HISTORIES.values()))


def test_official_folder_with_unknown_index(official, write):
    write("Shop.item2index", "a|3", "b|2", "c|1")
    with pytest.raises(ValueError, match=r"Shop.item2index: no item has index '0'"):
        read_recbole(official)
