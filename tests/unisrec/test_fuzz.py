"""The fuzzer of the command line: no misses, and a judge that would see them."""

import collections
import importlib
import os
import re
from pathlib import Path

import pytest

from unisrec.cli import VERBS


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FUZZ = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); import fuzz; sys.exit(fuzz.main())"


@pytest.fixture
def fuzz(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("fuzz")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="each input runs in a fork")
def test_a_sample_of_bad_inputs_and_no_miss(fork):
    """A sample; all of them are run by `python benchmarks/fuzz.py`."""
    words = ["--seed", 0, "--cases", 20, "--interpreters", 1]
    done = fork(*words, program=FUZZ)
    assert done.status() == 0, done.out.read_text() + done.err.read_text()
    printed = done.out.read_text()
    assert "MISS" not in printed
    verb, inputs, *_, misses = re.findall(r"^all .*$", printed, re.MULTILINE)[0].split()
    assert (verb, inputs, misses) == ("all", "20", "0")


def test_the_cases_are_many_and_of_every_verb(fuzz):
    cases = fuzz.all_cases(seed=0)
    verbs = collections.Counter(case.verb for case in cases)
    assert set(verbs) == set(VERBS)
    assert sum(case.expect == fuzz.REFUSED for case in cases) >= 800
    assert [case.key for case in cases] == [case.key for case in fuzz.all_cases(seed=0)]


ONE_LINE = "unisrec evaluate: error: shop/domain.json: it has no field 'counts'\n"


@pytest.mark.parametrize(
    ("answer", "miss"),
    [
        ({"status": 2, "err": ONE_LINE}, None),
        ({"status": 0}, "accepted"),
        ({"status": 1, "err": "Traceback (most recent call last):\nTypeError: x"}, "traceback"),
        ({"status": 1, "err": ONE_LINE}, "status 1"),
        ({"status": -11}, "status -11"),
        ({"status": -9}, "does not end"),
        ({"status": 2, "err": ""}, "0 lines"),
        ({"status": 2, "err": "a warning\n" + ONE_LINE}, "2 lines"),
        ({"status": 2, "err": "unisrec evaluate: error: 'counts'\n"}, "no substance"),
        ({"status": 2, "err": "unisrec evaluate: error: the input cannot be read at all\n"}, "names nothing"),
        ({"status": 2, "err": ONE_LINE.replace("\n", " (KeyError while running `unisrec`; UNISREC_DEBUG=1 shows where)\n")}, None),
        ({"status": 2, "err": "unisrec evaluate: error: x (KeyError while running `unisrec evaluate --domain shop`; UNISREC_DEBUG=1 shows where)\n"}, "no substance"),
        ({"status": 2, "err": ONE_LINE, "after": {"shop/domain.json": "1", "out.json": "2"}}, "left behind"),
        ({"status": 2, "err": ONE_LINE, "after": {"shop/domain.json": "2"}}, "left behind"),
        ({"status": 2, "err": ONE_LINE, "after": {"shop/domain.json": "1", ".out.123.tmp": "folder"}}, "drafts left"),
        ({"status": 2, "err": ONE_LINE, "after": {"shop/domain.json": "1", "tmp/x": "1"}}, "drafts left"),
    ],
)  # fmt: skip
def test_the_judge_sees_each_kind_of_miss(fuzz, answer, miss):
    case = fuzz.Case("evaluate", "x", ("--domain", "shop"), fuzz.REFUSED, r"\bshop\b")
    before = {"shop/domain.json": "1"}
    answer = fuzz.Answer(**{"out": "", "err": "", "before": before, "after": before} | answer)
    found = fuzz.misses_of(case, answer)
    assert any(line.startswith(miss) for line in found) if miss else found == []


def test_a_sound_input_that_is_refused_is_a_miss(fuzz):
    case = fuzz.Case("evaluate", "x", (), fuzz.TAKEN, ".")
    answer = fuzz.Answer(2, "", ONE_LINE, before={"base": "link"}, after={"base": "link"})
    assert [line.partition(":")[0] for line in fuzz.misses_of(case, answer)] == ["refused"]
    answer = fuzz.Answer(0, "", "", before={"base": "link"}, after={"base": "link", "stray": "1"})
    assert fuzz.misses_of(case, answer) == ["files that were not asked for: ['stray']"]
