"""The domain in memory and as a folder: validation, hash, round trip, damaged folders."""

import hashlib
import json
import os
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from unisrec.data import Domain
from unisrec.data.domain import check_output_folder, new_folder


HISTORIES = [[0, 1, 2, 1], [2], [1, 0]]


def make_domain(histories=HISTORIES, texts=("red mug", "blue mug", "tea pot"), users=("u1", "u2", "u3"), name="shop"):
    items = pl.DataFrame(
        {"item_id": [f"i{n}" for n in range(len(texts))], "text": list(texts), "price": [1.5] * len(texts)}
    )
    sequences = pl.DataFrame(
        {"user_id": list(users), "item_index": histories},
        schema={"user_id": pl.String, "item_index": pl.List(pl.UInt32)},
    )
    return Domain(name, items, sequences, {"source": "test", "steps": [{"step": "read", "dropped": 1234, "left": 7}]})


def test_counts_and_flat_view():
    domain = make_domain()
    assert (domain.num_users, domain.num_items, domain.num_interactions) == (3, 3, 7)
    assert (domain.flat.dtype, domain.offsets.dtype) == (np.int32, np.int64)
    assert not domain.flat.flags.owndata  # a second copy of all interactions
    rows = [domain.flat[start:end].tolist() for start, end in zip(domain.offsets, domain.offsets[1:], strict=False)]
    assert rows == HISTORIES
    assert repr(domain) == "Domain('shop', 3 users, 3 items, 7 interactions)"


def test_round_trip(tmp_path):
    domain = make_domain()
    domain.save_to_disk(tmp_path / "new" / "shop")
    loaded = Domain.load_from_disk(tmp_path / "new" / "shop")
    assert loaded.items.equals(domain.items)
    assert loaded.sequences.equals(domain.sequences)
    assert (loaded.name, loaded.info, loaded.content_hash) == (domain.name, domain.info, domain.content_hash)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["shop"]
    description = json.loads((tmp_path / "new" / "shop" / "domain.json").read_text())
    assert description["counts"] == {"users": 3, "items": 3, "interactions": 7}
    assert description["splits"]["protocol"].startswith("leave-one-out")


@pytest.mark.parametrize(
    "changed",
    [
        {"texts": ("red mug", "blue mug", "tea pots")},
        {"texts": ("red mugb", "lue mug", "tea pot")},
        {"users": ("u1", "u2", "u4")},
        {"histories": [[0, 1, 2], [1, 2], [1, 0]]},
        {"histories": [[0, 2, 1, 1], [2], [1, 0]]},
    ],
)
def test_hash_sees_every_part(changed):
    assert make_domain(**changed).content_hash != make_domain().content_hash


def test_hash_ignores_name_extra_columns_and_encoding(tmp_path):
    domain = make_domain(name="other")
    rebuilt = Domain(
        "x", domain.items.drop("price").rechunk(), pl.concat([domain.sequences[:1], domain.sequences[1:]])
    )
    assert rebuilt.content_hash == make_domain().content_hash


def test_hash_formula():
    # Feature caches and model cards refer to the hash: it must not change between releases.
    domain = make_domain(texts=("red mug", "café", "tea pot"))
    digest = hashlib.sha256()
    for strings in (["i0", "i1", "i2"], ["red mug", "café", "tea pot"], ["u1", "u2", "u3"]):
        encoded = [string.encode() for string in strings]
        digest.update(b"".join(struct.pack("<I", len(string)) for string in encoded) + b"".join(encoded))
    digest.update(struct.pack("<4q", 0, 4, 5, 7) + struct.pack("<7I", 0, 1, 2, 1, 2, 1, 0))
    assert domain.content_hash == digest.hexdigest()


def test_failed_save_leaves_nothing(tmp_path):
    domain = make_domain()
    domain.info["bad"] = object()
    with pytest.raises(TypeError):
        domain.save_to_disk(tmp_path / "shop")
    assert list(tmp_path.iterdir()) == []


def test_save_into_empty_folder_but_not_over_files(tmp_path):
    target = tmp_path / "shop"
    target.mkdir()
    make_domain().save_to_disk(target)
    with pytest.raises(FileExistsError, match=r"not an empty folder"):
        make_domain().save_to_disk(target)
    with pytest.raises(FileExistsError, match=r"not an empty folder"):
        check_output_folder(target / "domain.json")


def test_saved_folder_is_readable_by_others(tmp_path):
    old = os.umask(0o022)
    try:
        make_domain().save_to_disk(tmp_path / "shop")
    finally:
        os.umask(old)
    assert (tmp_path / "shop").stat().st_mode & 0o777 == 0o755


def break_nothing_there(folder: Path):
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def break_file_missing(folder: Path):
    (folder / "items.parquet").unlink()


def break_json(folder: Path):
    (folder / "domain.json").write_text("{")


def break_json_key(folder: Path):
    (folder / "domain.json").write_text('{"format_version": 1, "name": "x"}')


def break_version(folder: Path):
    path = folder / "domain.json"
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 9'))


def break_parquet(folder: Path):
    path = folder / "items.parquet"
    path.write_bytes(path.read_bytes()[:-20])


def break_counts(folder: Path):
    pl.read_parquet(folder / "sequences.parquet")[:2].write_parquet(folder / "sequences.parquet")


def break_text(folder: Path):
    pl.read_parquet(folder / "items.parquet").with_columns(text=pl.lit("x")).write_parquet(folder / "items.parquet")


def change_items(folder: Path, change):
    change(pl.read_parquet(folder / "items.parquet")).write_parquet(folder / "items.parquet")


def change_sequences(folder: Path, change):
    change(pl.read_parquet(folder / "sequences.parquet")).write_parquet(folder / "sequences.parquet")


def break_order(folder: Path):
    change_items(folder, lambda items: items.reverse())


def break_types(folder: Path):
    change_sequences(folder, lambda users: users.cast({"item_index": pl.List(pl.Int64)}))


def break_range(folder: Path):
    change_sequences(folder, lambda users: users.with_columns(pl.col("item_index").list.eval(pl.element() + 1)))


def break_users(folder: Path):
    change_sequences(folder, lambda users: users.with_columns(user_id=pl.lit("u1")))


def break_rows(folder: Path):
    change_sequences(folder, lambda users: users.clear())


def break_kind(folder: Path):
    (folder / "items.parquet").unlink()
    (folder / "items.parquet").mkdir()


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (break_nothing_there, FileNotFoundError, "no such folder"),
        (break_file_missing, FileNotFoundError, "not a domain folder, items.parquet missing"),
        (break_json, ValueError, "damaged domain folder"),
        (break_json_key, ValueError, "damaged domain folder \\(domain.json lacks 'info'\\)"),
        (break_version, ValueError, "format version 9, expected 1"),
        (break_parquet, ValueError, "damaged domain folder"),
        (break_counts, ValueError, "2 users, expected 3"),
        (break_text, ValueError, "content hash differs"),
        (break_order, ValueError, "content hash differs"),
        (break_types, ValueError, "'item_index' is List\\(Int64\\), expected List\\(UInt32\\)"),
        (break_range, ValueError, "user 'u1' has item_index 3, expected a row of the 3 items"),
        (break_users, ValueError, "user_id 'u1' occurs more than once"),
        (break_rows, ValueError, "sequences.parquet: the file has columns but no rows"),
        (break_kind, FileNotFoundError, "not a domain folder, items.parquet missing"),
    ],
)
def test_damaged_folder(tmp_path, damage, error, message):
    folder = tmp_path / "shop"
    make_domain().save_to_disk(folder)
    damage(folder)
    with pytest.raises(error, match=message) as caught:
        Domain.load_from_disk(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format_version": "1"}, "format version '1', expected 1"),
        ({"name": None}, "'name' in domain.json is None, expected a str"),
        ({"info": []}, r"'info' in domain.json is \[\], expected a dict"),
        ({"info": {"steps": [{"step": "read"}]}}, "'steps' in domain.json is not a list of steps"),
        ({"info": {"item_steps": 5}}, "'item_steps' in domain.json is not a list of steps"),
        ({"counts": 3}, "'counts' in domain.json is 3, expected a dict"),
        ({"counts": {}}, r"3 users, expected None \(domain.json\)"),
        ({"counts": {"users": "3"}}, r"3 users, expected '3' \(domain.json\)"),
        ({"content_hash": None}, "'content_hash' in domain.json is None, expected a str"),
        ({"splits": "leave-one-out"}, "'splits' in domain.json is 'leave-one-out', expected a dict"),
        ({"splits": {"protocol": "random"}}, "the protocol of 'splits' in domain.json is 'random', expected one of"),
        ({"given_features": ["../../secret"]}, "'given_features' in domain.json is .*, expected a list of item_emb"),
        ({"given_features": {"item_embeddings": 1}}, "'given_features' in domain.json is .*, expected a list"),
    ],
)
def test_edited_description(tmp_path, changed, message):
    make_domain().save_to_disk(tmp_path / "shop")
    path = tmp_path / "shop" / "domain.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(ValueError, match=rf"shop: damaged domain folder \({message}"):
        Domain.load_from_disk(tmp_path / "shop")


@pytest.mark.parametrize("text", ["[]", "1", "null", "[" * 100_000, "\xff"])
def test_description_that_is_no_object(tmp_path, text):
    make_domain().save_to_disk(tmp_path / "shop")
    (tmp_path / "shop" / "domain.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="shop: damaged domain folder"):
        Domain.load_from_disk(tmp_path / "shop")


def test_folder_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file/shop: cannot be written \(Not a directory\)"):
        make_domain().save_to_disk(tmp_path / "file" / "shop")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(FileExistsError, match=r"link: already exists"):
        make_domain().save_to_disk(tmp_path / "link")
    with suppress(KeyboardInterrupt), new_folder(tmp_path / "new" / "parents" / "shop") as draft:
        (draft / "items.parquet").touch()
        raise KeyboardInterrupt
    with pytest.raises(FileNotFoundError, match=r"^clicks: no such file$"), new_folder(tmp_path / "new" / "shop"):
        raise FileNotFoundError("clicks: no such file")  # what the caller reads is no fault of the folder
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"texts": ("red mug", " ", "tea pot")}, "'i1' has no text"),
        ({"texts": ("red mug", None, "tea pot")}, "'i1' has no text"),
        ({"users": ("u1", "u1", "u3")}, "user_id 'u1' occurs more than once"),
        ({"users": ("u1", None, "u3")}, "row 1 has no user_id"),
        ({"histories": [[0], [], [1]]}, "user 'u2' has an empty history"),
        ({"histories": [[0], None, [1]]}, "user 'u2' has an empty history"),
        ({"histories": [[0, 1], [2, 3], [1]]}, "user 'u2' has item_index 3, expected a row of the 3 items"),
        ({"histories": [[0, 1], [2], [1, None]]}, "user 'u3' has item_index None"),
        ({"histories": [], "users": ()}, "sequences: no rows"),
    ],
)
def test_invalid_content(changed, message):
    with pytest.raises(ValueError, match=message):
        make_domain(**changed)


def test_invalid_columns():
    domain = make_domain()
    with pytest.raises(ValueError, match=r"column 'text' is missing"):
        Domain("x", domain.items.drop("text"), domain.sequences)
    with pytest.raises(ValueError, match=r"'item_index' is List\(Int64\), expected List\(UInt32\)"):
        Domain("x", domain.items, domain.sequences.cast({"item_index": pl.List(pl.Int64)}))


def test_report():
    report = make_domain().report()
    assert "shop: 3 users, 3 items, 7 interactions" in report
    assert "2.33 interactions per user, 7.3 characters per item text, 1 user can be evaluated" in report
    assert "1,234" in report
