"""Test results of a fine-tuning run, which another run reads for comparison."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..data import Domain


RESULTS_FILE = "test_results.json"  # name given by `Trainer.save_metrics("test", ...)`


@dataclass(frozen=True)
class RunResults:
    r"""
    Test results of a fine-tuning run.

    Args:
        name (`str`): Name of the output folder.
        setting (`str`): `"inductive"` or `"transductive"`.
        from_scratch (`bool`): Whether training started from random weights.
        seed (`int`): Random seed.
        metrics (`Mapping[str, float]`): Metrics by the names of [`ranking_metrics`].
    """

    name: str
    setting: str
    from_scratch: bool
    seed: int
    metrics: Mapping[str, float]


def run_facts(domain: Domain, setting: str, from_scratch: bool, seed: int) -> dict[str, str | bool | int]:
    """Returns the entries of `test_results.json` other than the metrics; `split` names a time split."""
    split = {} if domain.cut is None else {"split": domain.cut.name}
    return split | {
        "domain": domain.name,
        "content_hash": domain.content_hash,
        "setting": setting,
        "from_scratch": from_scratch,
        "seed": seed,
    }


def load_run_results(folder: str | os.PathLike, domain: Domain) -> RunResults:
    r"""
    Loads the test results of another run on the same domain.

    Args:
        folder (`str` or `os.PathLike`): Output folder of [`finetune`].
        domain ([`Domain`]): Domain that the run must have been trained and tested on.

    Returns:
        [`RunResults`]: The results.

    Raises:
        FileNotFoundError: If the folder holds no `test_results.json`.
        ValueError: If [`finetune`] did not write that file, or wrote it for another domain.
    """
    file = Path(folder) / RESULTS_FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"{file}: no such file to compare with; name the output folder of a finished unisrec finetune."
        )
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        results = RunResults(
            Path(folder).absolute().name,
            found["setting"],
            found["from_scratch"],
            found["seed"],
            {name.removeprefix("test_"): value for name, value in found.items() if "@" in name},
        )
        name, content_hash = str(found["domain"]), str(found["content_hash"])
        _check_types(results)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file}: not a results file of unisrec finetune ({type(error).__name__}: {error}); run that fine-tuning "
            "again."
        ) from error
    split = None if domain.cut is None else domain.cut.name
    if found.get("split") != split:
        raise ValueError(
            f"{file}: measured on the split {found.get('split') or 'leave-one-out'}, this run is on {split or 'leave-one-out'}; "
            "only runs on the same split can be compared."
        )
    if content_hash != domain.content_hash:
        raise ValueError(
            f"{file}: measured on {name!r} with content hash {content_hash[:12]}, this run is on {domain.name!r} with "
            f"{domain.content_hash[:12]}; only runs on the same domain can be compared."
        )
    return results


def _check_types(results: RunResults) -> None:
    """Raises `ValueError` for values that [`finetune`] never writes, because they would appear in a model card."""
    if results.setting not in ("inductive", "transductive"):
        raise ValueError(f"the setting is {results.setting!r}, expected 'inductive' or 'transductive'")
    if type(results.from_scratch) is not bool or type(results.seed) is not int:
        raise ValueError("from_scratch must be true or false, and seed a whole number")
    for name, value in results.metrics.items():
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise ValueError(f"{name} is {value!r}, expected a number from 0 to 1")


__all__ = ["RunResults", "load_run_results", "run_facts"]
