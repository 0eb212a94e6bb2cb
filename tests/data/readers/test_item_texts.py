"""Cleaning and joining of item texts."""

import polars as pl
import pytest

from unisrec.data.readers.item_texts import clean_text, join_texts


def clean(texts):
    return (
        pl.DataFrame({"text": texts}, schema={"text": pl.String}).select(clean_text(pl.col("text")))["text"].to_list()
    )


def join(*parts, **kwargs):
    frame = pl.DataFrame(
        {f"part{n}": [part] for n, part in enumerate(parts)},
        schema_overrides={f"part{n}": pl.String for n in range(len(parts))},
    )
    return frame.select(text=join_texts(map(pl.col, frame.columns), **kwargs))["text"].item()


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("Salt &amp; Pepper", "Salt & Pepper"),
        ("&copy; Acme &#39;x&#39;", "© Acme 'x'"),
        ('15" laptop', "15 laptop"),
        ("two\r\nlines\tand   spaces ", "two lines and spaces"),
        ("Home </span></span> & <b>Kitchen</b>", "Home & Kitchen"),
        ("&lt;br&gt;Mug", "Mug"),
        ("size < 5 and > 3", "size < 5 and > 3"),
        ("R&D", "R&D"),
        ("<style type='a'>p {\n color: red }</style >Lamp <STYLE>b</STYLE>", "Lamp"),
        ("<script>if (a < b) { x() }</script>Lamp<!-- wp:p\n <b> --> of oak", "Lamp of oak"),
        ("<styled>Lamp</styled> <!-- open", "Lamp <!-- open"),
        (' "" ', None),
        ("", None),
        (None, None),
    ],
)
def test_clean_text(raw, cleaned):
    assert clean([raw]) == [cleaned]
    assert clean(["other &amp;", raw, raw]) == ["other &", cleaned, cleaned]


def test_join_texts():
    assert join("Red mug.", None, " Acme... ") == "Red mug. Acme"
    assert join("Red mug", "", "Acme") == "Red mug. Acme"
    assert join("...", None) is None
    assert join(None, None) is None


def test_long_text_is_cut_at_a_word():
    text = join("word " * 1000)
    assert len(text) == 1999
    assert text.endswith("word")
    assert join("abcd efgh", max_chars=9) == "abcd efgh"
    assert join("abcd efgh", max_chars=8) == "abcd"
    assert join("abcd efgh", max_chars=4) == "abcd"
    assert join("abcdefgh", max_chars=3) == "abc"
