"""Devices and processes of an evaluation, and launches whose processes do not form a group."""

import os

from accelerate import Accelerator
from transformers.utils import logging


logger = logging.get_logger(__name__)

_LAUNCH_ON_CPUS = "on CPUs: accelerate launch --multi_gpu --num_processes N -m unisrec VERB ... --use_cpu"


def check_launch(world_size: int) -> None:
    r"""
    Detects launches whose processes do not form a group.

    `accelerate launch --cpu --num_processes 2` starts one process, which is said in a warning: nothing is wrong but the
    size of the batch. `accelerate launch --multi_gpu` without `--use_cpu` starts several where there is no GPU, each of
    which would train alone and write into the same folder.

    Args:
        world_size (`int`): Processes of the group.

    Raises:
        ValueError: If this process is one of several that a launcher has started, and is alone in its group.
    """
    if world_size > 1:
        return
    if "LOCAL_RANK" in os.environ and (started := int(os.environ.get("WORLD_SIZE", 1))) > 1:
        raise ValueError(
            f"{started} processes were started and each would train alone, since no GPU is visible; {_LAUNCH_ON_CPUS}."
        )
    # What accelerate's launcher of a single process leaves, the address only if it was asked for more than one.
    if {"ACCELERATE_USE_CPU", "MASTER_ADDR"} <= os.environ.keys():
        logger.warning_once(
            f"accelerate launch was asked for several processes and started one, which trains alone; {_LAUNCH_ON_CPUS}; "
            "on GPUs with --multi_gpu instead of --cpu."
        )


def make_accelerator(use_cpu: bool = False) -> Accelerator:
    """The accelerator of this process. Raises `ValueError` as [`check_launch`] does."""
    accelerator = Accelerator(cpu=use_cpu)
    check_launch(accelerator.num_processes)
    return accelerator


__all__ = ["check_launch", "make_accelerator"]
