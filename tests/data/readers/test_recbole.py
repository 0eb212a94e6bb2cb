"""Atomic files of RecBole."""

import pytest

from unisrec.data import read_recbole


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
    write("ml.inter", "user_id:token|item_id:token|item_id:float|timestamp:float", "1|10|10|1")
    with pytest.raises(ValueError, match=r"ml.inter, line 1: column 'item_id' comes twice, expected each name once"):
        read_recbole(atomic)


def test_missing_values(write, atomic):
    write("ml.item", "item_id:token|title:token_seq|year:token", "10||nan", "20|Pan|", "|Lid|", "30|[]|NaN")
    write("ml.inter", "user_id:token|item_id:token|timestamp:float", "1|10|1", "|10|2", "1|20|")
    raw = read_recbole(atomic)
    assert raw.items.rows() == [("10", None), ("20", "Pan"), (None, "Lid"), ("30", None)]
    assert raw.interactions.rows() == [("1", "10", 1), (None, "10", 2), ("1", "20", None)]
