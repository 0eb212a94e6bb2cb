"""What a training that ends with an exception leaves in its output folder."""

import json

import pytest

from unisrec.trainer.checkpoint_folders import DRAFTS, FILE_LIST, tidy_failure


def tree(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def fail(folder, error=ValueError, log="", checkpoint=False):
    """A run that writes into its folder and fails."""
    with tidy_failure(folder):
        (folder / DRAFTS / "checkpoint-2").mkdir(parents=True, exist_ok=True)
        (folder / DRAFTS / "checkpoint-2" / "half").write_text("x")
        (folder / "log.jsonl").write_text(log)
        if checkpoint:
            (folder / "checkpoint-1").mkdir()
        raise error("the disk is full")


@pytest.mark.parametrize("exists", [True, False])
def test_a_run_that_came_to_no_checkpoint_leaves_no_trace(tmp_path, exists):
    if exists:
        (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="the disk is full"):
        fail(tmp_path / "out", log="{}\n")
    assert tree(tmp_path) == (["out"] if exists else [])


def test_a_run_with_a_checkpoint_can_be_gone_on_with_and_has_no_half_drafts(tmp_path):
    with pytest.raises(ValueError, match="full"):
        fail(tmp_path / "b", checkpoint=True)
    assert tree(tmp_path / "b") == [DRAFTS, "checkpoint-1", "log.jsonl"]


def test_a_complete_draft_stays(tmp_path):
    draft = tmp_path / "out" / DRAFTS / "checkpoint-2"

    def complete_then_fail() -> None:
        with tidy_failure(tmp_path / "out"):
            draft.mkdir(parents=True)
            (draft / FILE_LIST).write_text(json.dumps({}))
            raise ValueError("the disk is full")

    with pytest.raises(ValueError, match="full"):
        complete_then_fail()
    assert (draft / FILE_LIST).is_file()


@pytest.mark.parametrize("error", [KeyboardInterrupt, InterruptedError, BlockingIOError])
def test_signals_and_the_run_of_another_process_leave_everything(tmp_path, error):
    with pytest.raises(error):
        fail(tmp_path / "out", error)
    assert (tmp_path / "out" / DRAFTS / "checkpoint-2" / "half").is_file()


def test_drafts_that_were_there_before_are_of_another_run(tmp_path):
    (tmp_path / "out" / DRAFTS).mkdir(parents=True)
    with pytest.raises(ValueError, match="full"):
        fail(tmp_path / "out")
    assert (tmp_path / "out" / DRAFTS / "checkpoint-2" / "half").is_file()


def test_a_finished_run_that_cannot_be_resumed_is_as_it_was(tmp_path):
    (tmp_path / "out" / "checkpoint-1").mkdir(parents=True)
    (tmp_path / "out" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="full"):
        fail(tmp_path / "out", log="{}\n")
    assert tree(tmp_path / "out") == ["checkpoint-1", "config.json", "log.jsonl"]
