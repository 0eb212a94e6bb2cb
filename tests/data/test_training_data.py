"""What a checkpoint records of its training, and what is refused because of it."""

from dataclasses import replace

import polars as pl
import pytest

from unisrec.configuration import UniSRecConfig
from unisrec.data import cut_at
from unisrec.data.training_data import (
    SeenInTraining,
    check_same_data,
    check_unseen,
    has_seen,
    merge_records,
    training_record,
)


def test_a_domain_trained_on_whole_is_seen_and_one_that_holds_out_is_not(make_domain, tmp_path):
    domain, other = make_domain("toys"), make_domain("books", seed=1)
    held_out = training_record(domain, text_encoder=False)
    whole = training_record(replace(domain, held_out=False), text_encoder=False)
    assert (held_out["trained_on"], whole["trained_on"]) == ("all but the last two", "all")
    UniSRecConfig(training_data=merge_records([held_out], [held_out, whole], None)).save_pretrained(tmp_path)
    config = UniSRecConfig.from_pretrained(tmp_path)
    assert config.training_data == [held_out, whole]
    with pytest.raises(SeenInTraining, match="trained on all interactions of 'toys'.*take another"):
        check_unseen("run", config, domain, "take another")
    check_unseen("run", config, other, "take another")
    check_unseen("run", UniSRecConfig(training_data=[held_out]), domain, "take another")
    check_unseen("run", UniSRecConfig(), domain, "take another")


def test_a_record_is_compared_with_what_a_split_holds_out(make_domain):
    plain = make_domain("toys")
    # The users one after the other: the first ended long before the last began.
    days, histories = iter(range(plain.num_interactions)), plain.sequences["item_index"].to_list()
    times = pl.Series("time", [[next(days) for _ in history] for history in histories])
    domain = replace(plain, sequences=plain.sequences.with_columns(times))
    early, late = cut_at(domain, "time:30"), cut_at(domain, "time:0.1")

    def seen(trained, tested):
        return has_seen(UniSRecConfig(training_data=[training_record(trained, text_encoder=False)]), tested)

    assert [seen(trained, tested) for trained in (early, late) for tested in (early, late)] == [
        False,
        False,
        True,
        False,
    ]
    assert seen(domain, early)
    assert not seen(domain, domain)
    assert seen(early, domain)  # the last two of the first user lie before the cut
    assert seen(early, plain)  # no times tell that they do not
    assert not seen(cut_at(domain, "time:1"), domain)
    assert seen(replace(domain, held_out=False), late)


def test_a_run_goes_on_with_the_interactions_it_began_with(make_domain, tmp_path):
    domain = make_domain("toys")
    whole, held_out = (training_record(replace(domain, held_out=held), text_encoder=False) for held in (False, True))
    early = held_out | {"trained_on": "before", "before": 30}
    config = UniSRecConfig(training_data=[held_out, early])
    config.save_pretrained(tmp_path)
    check_same_data(tmp_path, config)
    check_same_data(tmp_path, UniSRecConfig(training_data=[early, held_out]))
    check_same_data(tmp_path, UniSRecConfig(training_data=[training_record(make_domain("books"), text_encoder=False)]))
    check_same_data(tmp_path / "nowhere", UniSRecConfig(training_data=[whole]))
    message = "learned from all but the last two interactions and the interactions before 30 of 'toys', .* from all interactions: give"
    with pytest.raises(ValueError, match=message):
        check_same_data(tmp_path, UniSRecConfig(training_data=[whole]))
