"""Opening of files: plain and gzipped, and what is said about broken ones."""

import gzip

import polars as pl
import pytest

from unisrec.data.files import first_line, json_records, line_blocks, read_csv, read_json_lines, read_parquet


@pytest.fixture
def write(tmp_path):
    """Write bytes to a file of the temporary folder; `packed` compresses them whatever the name says."""

    def write(content: bytes, name: str = "data.txt", packed: bool = False):
        path = tmp_path / name
        path.write_bytes(gzip.compress(content) if packed else content)
        return path

    return write


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("block_bytes", [1, 7, 1000])
def test_line_blocks(write, packed, block_bytes):
    lines = [b"first\n", b"\n", b"second line\n", b"last"]
    blocks = list(line_blocks(write(b"".join(lines), packed=packed), block_bytes))
    assert b"".join(block for _, block in blocks) == b"".join(lines)
    for number, block in blocks:
        assert b"".join(lines[number - 1 :]).startswith(block)
        assert block.endswith(b"\n") or block.endswith(b"last")


def test_file_missing_empty_or_blank(write, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent.csv: no such file"):
        read_csv(tmp_path / "absent.csv")
    with pytest.raises(IsADirectoryError, match=r"a folder, expected a file"):
        read_csv(tmp_path)
    for packed in (False, True):
        with pytest.raises(ValueError, match=r"the file is empty"):
            read_csv(write(b"", packed=packed))
    with pytest.raises(ValueError, match=r"only blank lines"):
        first_line(write(b"\n\n"))
    with pytest.raises(ValueError, match=r"header line but no rows"):
        read_csv(write(b"a,b\n"))


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: data[:-3] + b"\0\0\0"])
def test_damaged_gzip(tmp_path, damage):
    path = tmp_path / "data.csv.gz"
    path.write_bytes(damage(gzip.compress(b"a,b\n" + b"1,2\n" * 1000)))
    with pytest.raises(ValueError, match=r"data.csv.gz: the gzip data is cut short or damaged after line \d+; fetch"):
        read_csv(path)


def test_first_line(write):
    assert first_line(write(b"\xef\xbb\xbf\na,b\r\n1,2\n")) == "a,b"


def test_read_csv_keeps_everything_as_text(write):
    frame = read_csv(write(b'id,title\r\n007,"a, b"\r\n8,\r\n\r\n', packed=True))
    assert frame.rows() == [("007", "a, b"), ("8", None)]
    assert read_csv(write(b'x\ty\n1\t2"\n'), separator="\t").rows() == [("1", '2"')]
    assert read_csv(write(b"1,2\n3,4\n"), columns=("a", "b")).rows() == [("1", "2"), ("3", "4")]


def test_read_csv_names_the_line(write):
    with pytest.raises(ValueError, match=r"data.txt: line 4 has 3 fields, expected 2 as in the first line"):
        read_csv(write(b'a,b\n1,"x\ny"\n1,2,3\n'))
    with pytest.raises(ValueError, match=r"data.txt: line 3 is not UTF-8 .*convert the file"):
        read_csv(write(b"a,b\n1,2\n\xff\xfe,2\n"))
    with pytest.raises(ValueError, match=r"data.txt, line 1: 2 fields, expected 3 \(x,y,z\) and no header line"):
        read_csv(write(b"1,2\n"), columns=("x", "y", "z"))


def test_read_json_lines(write):
    path = write(b'{"id": "a", "n": 1, "text": ["x"]}\n\n{"id": 5, "more": {}}\n', packed=True)
    assert read_json_lines(path, ["id", "n"]).rows() == [("a", 1), (5, None)]


@pytest.mark.parametrize("read", [lambda path: read_json_lines(path, ["a"]), lambda path: list(json_records(path))])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"a": 1', r"data.txt, line 3: not a JSON object \(.* at character \d+\)"),
        (b"[1]", r"data.txt, line 3: list, expected a JSON object"),
        (b'{"a": "\xff"}', r"data.txt, line 3: not UTF-8"),
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


def test_json_records_reads_python_literals(write):
    path = write(b'{\'asin\': \'x\', \'title\': "Bob\'s"}\n{"asin": "y", "ok": true}\n')
    assert list(json_records(path)) == [{"asin": "x", "title": "Bob's"}, {"asin": "y", "ok": True}]


def test_read_parquet(write, tmp_path):
    frame = pl.DataFrame({"a": [1, 2]})
    frame.write_parquet(tmp_path / "ok.parquet")
    assert read_parquet(tmp_path / "ok.parquet").equals(frame)
    with pytest.raises(ValueError, match=r"not a readable parquet file"):
        read_parquet(write(b"PAR1 nonsense"))
    with pytest.raises(FileNotFoundError, match=r"no such file"):
        read_parquet(tmp_path / "absent.parquet")
    frame[:0].write_parquet(tmp_path / "empty.parquet")
    with pytest.raises(ValueError, match=r"no rows"):
        read_parquet(tmp_path / "empty.parquet")


def test_one_line_without_a_line_break(write):
    assert list(line_blocks(write(b"user,item", "one.csv"))) == [(1, b"user,item")]
