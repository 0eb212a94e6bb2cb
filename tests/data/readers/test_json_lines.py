"""JSON lines: strings and types are kept, by both ways of reading, and what is said about broken lines."""

import gzip

import polars as pl
import pytest

from unisrec.data.readers import json_lines
from unisrec.data.readers.files import line_blocks
from unisrec.data.readers.json_lines import json_fields, json_records, read_json_lines


@pytest.fixture
def write(tmp_path):
    """Write bytes to a file of the temporary folder; `packed` compresses them whatever the name says."""

    def write(content: bytes, name: str = "data.txt", packed: bool = False):
        path = tmp_path / name
        path.write_bytes(gzip.compress(content) if packed else content)
        return path

    return write


def test_read_json_lines(write):
    path = write(b'\xef\xbb\xbf{"id": "a", "n": 1, "text": ["x"]}\r\n\n{"id": 5, "more": {}}\n', packed=True)
    assert read_json_lines(path, ["id", "n"]).rows() == [("a", 1), (5, None)]


def test_fields_are_those_of_all_records(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"b": 1}\n\n{"a": 2, "b": null}\n{"c": []}\n')
    assert json_fields(tmp_path / "rows.jsonl") == ["b", "a", "c"]


@pytest.mark.parametrize("read", [lambda path: read_json_lines(path, ["a"]), lambda path: list(json_records(path))])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"a": 1', r"data.txt, line 3: not a JSON object \(.* at character \d+\)"),
        (b"[1]", r"data.txt, line 3: list, expected a JSON object"),
        (b'{"a": "\xff"}', r"data.txt, line 3: not UTF-8"),
        (b'{"a": "\\ud800"}', r"data.txt, line 3: not a JSON object \('.ud800' is half of a character"),
        (b'{"a": ' + b"[" * 100_000, r"data.txt, line 3: not a JSON object \(nested too deeply\)"),
        (b'{"a": ' + b"9" * 5_000 + b"}", r"data.txt, line 3: not a JSON object \(Exceeds the limit"),
        (b"{'a': b'x'", r"data.txt, line 3: not a JSON object"),
        (b"null", r"data.txt, line 3: NoneType, expected a JSON object"),
        (b"\0", r"data.txt, line 3: a NUL byte"),
    ],
)
def test_broken_json_line(write, read, line, message):
    with pytest.raises(ValueError, match=message):
        read(write(b'{"a": 1}\n\n' + line + b'\n{"a": 2}\n'))


def test_broken_json_line_in_a_later_block(write, monkeypatch):
    monkeypatch.setattr(line_blocks, "__defaults__", (16,))
    path = write(b'{"a": 1}\n' * 50 + b"oops\n")
    with pytest.raises(ValueError, match=r"line 51: not a JSON object"):
        read_json_lines(path, ["a"])


def test_types_of_json_lines(write, monkeypatch):
    lines = [
        b'{"s": "C:\\\\new \\ud83d\\ude00", "i": 1, "f": 0.5, "b": true, "l": [1], "m": "x", "big": 1}',
        b'{"s": null, "i": 2, "f": NaN, "b": null, "l": null, "m": 7, "big": 9223372036854775808}',
    ]
    for block_bytes in (1, 1 << 20):  # one line in a block, and all in one
        monkeypatch.setattr(line_blocks, "__defaults__", (block_bytes,))
        frame = read_json_lines(write(b"\n".join(lines)), ["s", "i", "f", "b", "l", "m", "big"])
        kinds = [pl.String, pl.Int64, pl.Float64, pl.Boolean, pl.Object, pl.Object, pl.Object]
        assert frame.dtypes == kinds
        assert frame["s"].to_list() == ["C:\\new \U0001f600", None]
        assert frame["l"].to_list() == [[1], None]
        assert frame["m"].to_list() == ["x", 7]
        assert frame["big"].to_list() == [1, 2**63]


def test_json_lines_of_one_type_are_read_as_the_others(write, monkeypatch):
    lines = [
        b'{"s": "C:\\\\new \\ud83d\\ude00", "i": -5, "more": [NaN]}',
        b' {"i": 9223372036854775807, "s": null} ',
        '{"s": "2024-01-01T00:00:00Z", "s2": "é"}'.encode(),
    ]
    path = write(b"\n".join(lines))
    fast = read_json_lines(path, ["s", "i", "i"])
    assert fast.rows() == [("C:\\new \U0001f600", -5), (None, 2**63 - 1), ("2024-01-01T00:00:00Z", None)]
    monkeypatch.setattr(json_lines, "_typed_columns", lambda block, first: None)
    assert read_json_lines(path, ["s", "i"]).equals(fast)


@pytest.mark.parametrize(
    "line",
    [
        b'{"s": 5, "i": 1}',
        b'{"s": true, "i": 1}',
        b'{"s": ["x"], "i": 1}',
        b'{"s": NaN, "i": 1}',
        b'{"s": "x", "i": 1.0}',
        b'{"s": "x", "i": "1"}',
        b'{"s": "x", "i": 9223372036854775808}',
        b"{'s': 'x', 'i': 1}",
        b'\n{"s": "x", "i": 1}',
        b'{"s": "x"}{"i": 1}',
        b'{"s": "x", "more": "\xff"}',
    ],
)
def test_json_lines_of_several_types_are_read_one_by_one(line):
    first = b'{"s": "x", "i": 1}\n'
    assert json_lines._typed_columns(first + line, {"s": "x", "i": 1}) is None
    assert json_lines._typed_columns(first * 2, {"s": "x", "i": 1})[1].to_list() == [1, 1]


def test_fields_of_json_lines(write):
    assert read_json_lines(write(b'{"a": 1}\n{"b": 2}\n'), ["a", "b"]).rows() == [(1, None), (None, 2)]
    with pytest.raises(ValueError, match=r"data.txt: no column 'c', the columns are a"):
        read_json_lines(write(b'{"a": 1}\n'), ["a", "c"])
    for content in (b"\n\n", b"{}\n{}\n"):
        with pytest.raises(ValueError, match=r"data.txt: no fields, expected one JSON object in each line"):
            read_json_lines(write(content), ["a"])


def test_json_records_reads_python_literals(write):
    path = write(b'{\'asin\': \'x\', \'title\': "Bob\'s"}\n{"asin": "y", "ok": true}\n')
    assert list(json_records(path)) == [{"asin": "x", "title": "Bob's"}, {"asin": "y", "ok": True}]
