"""Devices and processes of an evaluation, and detection of launches whose processes do not form a group."""

import os

from accelerate import Accelerator, DataLoaderConfiguration
from transformers.utils import logging


logger = logging.get_logger(__name__)

_LAUNCH_ON_CPUS = "on CPUs: accelerate launch --multi_gpu --num_processes N -m unisrec VERB ... --use_cpu"


def check_launch(world_size: int) -> None:
    r"""
    Detects launches whose processes do not form a group.

    `accelerate launch --cpu --num_processes 2` starts only one process, so the batch is smaller than intended; this is a
    warning. `accelerate launch --multi_gpu` on a machine without GPUs and without `--use_cpu` starts several processes
    that would each train alone and write to the same folder; this is an error.

    Args:
        world_size (`int`): Number of processes in the group.

    Raises:
        ValueError: If a launcher has started several processes, and this one is alone in its group.
    """
    if world_size > 1:
        return
    if "LOCAL_RANK" in os.environ and (started := int(os.environ.get("WORLD_SIZE", 1))) > 1:
        raise ValueError(
            f"{started} processes were started and each would train alone, since no GPU is visible; {_LAUNCH_ON_CPUS}."
        )
    # Variables set by accelerate's launcher of a single process; the address only if more than one was requested.
    if {"ACCELERATE_USE_CPU", "MASTER_ADDR"} <= os.environ.keys():
        logger.warning_once(
            f"accelerate launch was asked for several processes and started one, which trains alone; {_LAUNCH_ON_CPUS}; "
            "on GPUs with --multi_gpu instead of --cpu."
        )


def make_accelerator(use_cpu: bool = False) -> Accelerator:
    """Returns the accelerator of this process. Raises `ValueError` as [`check_launch`] does."""
    # Batches are copied to the device without waiting for what it still computes.
    accelerator = Accelerator(cpu=use_cpu, dataloader_config=DataLoaderConfiguration(non_blocking=True))
    check_launch(accelerator.num_processes)
    return accelerator


__all__ = ["check_launch", "make_accelerator"]
