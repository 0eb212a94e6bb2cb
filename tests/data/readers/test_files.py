"""Opening of files: plain and gzipped, and what is said about broken ones."""

import gzip
import os
import tempfile
from pathlib import Path

import polars as pl
import pytest

from unisrec.data.readers.files import first_line, line_blocks, read_csv, read_parquet, reading, suffix_of


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2\n3\n4,5\n", "line 3 has 1 fields, expected 2 as in the first line"),
        (b'a,b,c\n1,"x,y",2\n3,"x,y"\n', "line 3 has 2 fields, expected 3"),
        (b'a,b,c\n1,"x,y",2\n3,x\n', "line 3 has 2 fields, expected 3"),
        (b'a,b\n1,"x\ny"\n\n2\n', "line 5 has 1 fields, expected 2"),
        (b'a,b\n1,"x\n2,y\n', "line 2: unexpected end of data; are the quotes of each field in pairs"),
        (b'a,b\n1,x\n2,"x"y\n', "line 3: .* expected after .*; are the quotes of each field in pairs"),
        (
            b'a,b\n1,x"y\n2,z\n',
            "CSV malformed: .*; are the quotes of each field in pairs, and those inside it doubled",
        ),
        (b"a,b,a\n1,2,3\n", "line 1: column 'a' comes twice, expected each name once"),
        (b"a,b\n1,2\n3,\0\n", "line 3: a NUL byte, expected text in UTF-8; convert the file"),
        ("a,b\n1,2\n".encode("utf-16"), "line 1: a NUL byte, expected text in UTF-8"),
        ("a,b\n1,“x”\n".encode("cp1252"), "line 2 is not UTF-8"),
        (b"a,b", "the file has a header line but no rows"),
        (b"\n\n", "the file holds only blank lines"),
        (b"\xef\xbb\xbf", "the file holds only blank lines"),
    ],
)
def test_broken_csv(write, content, message):
    with pytest.raises(ValueError, match=rf"data.txt[:,] {message}"):
        read_csv(write(content))


def test_odd_csv_that_can_be_read(write):
    assert read_csv(write(b"\xef\xbb\xbfa,b\r\n1,\r\n3,4\r\n\r\n")).rows() == [("1", None), ("3", "4")]
    assert read_csv(write(b"a,b,\n1,2,\n")).rows() == [("1", "2")]  # a column without a name is none
    long = "x" * 200_000
    assert read_csv(write(f"a,b\n{long},\n".encode())).rows() == [(long, None)]


def test_special_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    (tmp_path / "nowhere.csv").symlink_to("absent")
    for name, message in {
        "pipe.csv": "pipe.csv: a pipe or a device, expected a regular file",
        "loop.csv": r"loop.csv: cannot be read \(Too many levels of symbolic links\)",
        "nowhere.csv": "nowhere.csv: no such file",
        "pipe.csv/x": "x: no such file",
        "x" * 300: r"xxx: cannot be read \(File name too long\)",
    }.items():
        for read in (read_csv, read_parquet):
            with pytest.raises(OSError, match=message):
                read(tmp_path / name)


def test_a_file_without_permission_is_not_taken_for_an_absent_one():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "data.csv")
        path.write_bytes(b"a,b\n1,2\n")
        path.chmod(0)
        Path(folder).chmod(0o755)
        user = os.geteuid()
        try:
            if user == 0:  # who may read everything
                os.seteuid(65534)
            with pytest.raises(OSError, match=r"data.csv: cannot be read \(Permission denied\)"):
                read_csv(path)
        finally:
            os.seteuid(user)


def test_read_parquet(write, tmp_path):
    frame = pl.DataFrame({"a": [1, 2]})
    frame.write_parquet(tmp_path / "ok.parquet")
    assert read_parquet(tmp_path / "ok.parquet").equals(frame)
    for content in (b"PAR1 nonsense", b"", (tmp_path / "ok.parquet").read_bytes()[:-9]):
        with pytest.raises(ValueError, match=r"data.txt: not a readable parquet file \(.+\)"):
            read_parquet(write(content))


def test_errors_of_libraries_name_the_file(tmp_path):
    for error in (
        pl.exceptions.ComputeError("first\nsecond"),
        pl.exceptions.PanicException("first"),
        RecursionError(),
    ):
        with (
            pytest.raises(ValueError, match=r"^x.parquet: not a readable table \((first|RecursionError)\)$"),
            reading("x.parquet", "table"),
        ):
            raise error


def test_read_parquet_of_no_file(tmp_path):
    frame = pl.DataFrame({"a": [1, 2]})
    with pytest.raises(FileNotFoundError, match=r"no such file"):
        read_parquet(tmp_path / "absent.parquet")
    frame[:0].write_parquet(tmp_path / "empty.parquet")
    with pytest.raises(ValueError, match=r"no rows"):
        read_parquet(tmp_path / "empty.parquet")


def test_one_line_without_a_line_break(write):
    assert list(line_blocks(write(b"user,item", "one.csv"))) == [(1, b"user,item")]


def test_endings():
    for name in ("a.csv", "a.CSV", "b/a.csv.gz", "A.Csv.GZ"):
        assert suffix_of(name) == ".csv"
    assert suffix_of("a.Parquet") == ".parquet"
    assert suffix_of("a") == suffix_of(".gz") == ""
