"""What a checkpoint records of its training, and what is refused because of it."""

from dataclasses import replace

import pytest

from unisrec.configuration import UniSRecConfig
from unisrec.data.training_data import SeenInTraining, check_unseen, merge_records, training_record


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
