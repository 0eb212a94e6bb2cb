"""Kills a pre-training at random moments, saving included, and compares what it ends with to the unbroken run; or kills
each verb that writes.

    python benchmarks/kill_test.py --kills 30 --seed 0
    python benchmarks/kill_test.py --kills 120 --seed 0 --verbs

Each process is killed by SIGKILL and started again with `--resume_from_checkpoint auto`; when a run ends before all kills
are used up, the next one starts. The domain and its text vectors are invented. Status 1 if a bit differs or a folder is
corrupt.

With `--verbs` it is `items`, `index`, `export`, `convert`, `prepare`, `recommend` and `push` that are killed, each at random
changes of files, `push` (to a stand-in for the Hub on this machine) where it opens one. Status 1 if a kill loses something, leaves something half-written where a reader would find it, or is in the way of the
next start.
"""

import argparse
import dataclasses
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _kill_verbs import kill_verbs

from unisrec.trainer.checkpoint_folders import DRAFTS, find_damage


TEXT_SIZE = 32
MOMENTS = {"anywhere": 0.5, "checkpoint": 0.35, "final save": 0.15}  # where a kill is aimed at, and how often
LONGEST = 600  # seconds a process may take


def write_domain(folder: Path) -> None:
    from unisrec.data.synthetic import synthetic_domains

    domain, *_ = synthetic_domains(
        num_source_users=400, num_target_users=50, num_source_items=200, num_target_items=50
    ).values()
    rng = np.random.default_rng(0)
    vectors = {
        name: rng.standard_normal((domain.num_items, TEXT_SIZE), dtype=np.float32)
        for name in ("item_embeddings", "word_drop_embeddings")
    }
    dataclasses.replace(domain, given_features=vectors).save_to_disk(folder)


def train(domain: Path, output: Path, log: Path) -> None:
    """What a process does."""
    from unisrec.cli import main

    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    words = ["pretrain", "--domains", domain, "--output_dir", output, "--resume_from_checkpoint", "auto", "--use_cpu"]
    words += ["--model-config", "hidden_size=32", "num_experts=4", "--num_train_epochs", 10]
    words += ["--per_device_train_batch_size", 128, "--save_strategy", "steps", "--save_steps", 5]
    words += ["--logging_steps", 5, "--disable_tqdm", "true"]
    sys.exit(main([str(word) for word in words]))


def wait_until(reached, process) -> bool:
    """Whether something happened before the process ended."""
    end = time.monotonic() + LONGEST
    while process.is_alive():
        if reached():
            return True
        if time.monotonic() > end:
            process.kill()
            raise TimeoutError(f"a process took more than {LONGEST} s")
        time.sleep(0.0005)
    return False


def kill_at_random(process, output: Path, rng: np.random.Generator) -> bool:
    """Whether the process was killed; it may end before the moment comes."""
    drafts = output / DRAFTS
    moment = rng.choice(list(MOMENTS), p=list(MOMENTS.values()))
    if moment == "anywhere":
        reached, delay = drafts.is_dir, rng.uniform(0, 3)
    else:
        pattern = "checkpoint-*" if moment == "checkpoint" else output.name
        reached, delay = lambda: any(drafts.glob(pattern)), rng.uniform(0, 0.1)
    started = time.monotonic()
    if wait_until(reached, process):
        started = time.monotonic()
        if wait_until(lambda: time.monotonic() - started > delay, process):
            process.kill()
    process.join()
    return process.exitcode < 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbs", action="store_true", help="kill the other verbs that write")
    args = parser.parse_args()
    if args.verbs:
        return kill_other_verbs(args.kills, args.seed)
    rng = np.random.default_rng(args.seed)
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    processes = multiprocessing.get_context(
        "forkserver"
    )  # each run is a fork of one that has imported, and done no more
    processes.set_forkserver_preload(["unisrec.trainer", "unisrec.cli"])
    rows = ("runs", "kills", "while saving a checkpoint", "while saving the model", "resumed from a checkpoint")
    counts = dict.fromkeys([*rows, "corrupt folders"], 0)
    equal = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        log = root / "log.txt"
        write_domain(root / "domain")

        def start(output: Path):
            process = processes.Process(target=train, args=(root / "domain", output, log))
            process.start()
            return process

        unbroken = start(root / "unbroken")
        began = time.monotonic()
        unbroken.join()
        print(f"the unbroken run took {time.monotonic() - began:.0f} s", flush=True)
        if unbroken.exitcode:
            print(log.read_text(), file=sys.stderr)
            return 1
        expected = (root / "unbroken" / "model.safetensors").read_bytes()
        while counts["kills"] < args.kills:
            output = root / f"run-{counts['runs']}"
            counts["runs"] += 1
            killed = True
            while killed:
                counts["resumed from a checkpoint"] += any(output.glob("checkpoint-*"))
                process = start(output)
                if counts["kills"] < args.kills:
                    killed = kill_at_random(process, output, rng)
                else:
                    process.join()
                    killed = False
                if killed:
                    counts["kills"] += 1
                    counts["while saving a checkpoint"] += any((output / DRAFTS).glob("*checkpoint-*"))
                    counts["while saving the model"] += (output / DRAFTS / output.name).exists()
                counts["corrupt folders"] += count_corrupt(output, expected)
            if process.exitcode:
                print(log.read_text(), file=sys.stderr)
                return 1
            equal.append((output / "model.safetensors").read_bytes() == expected)
            counts["corrupt folders"] += (output / DRAFTS).exists()
    for what, count in counts.items():
        print(f"{what:28}{count:6}")
    print(f"{'bit-equal to the unbroken':28}{sum(equal):4}/{len(equal)}")
    return int(not all(equal) or counts["corrupt folders"] > 0)


def kill_other_verbs(kills: int, seed: int) -> int:
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    print(f"{'':16}{'kills':>8}{'old':>8}{'new':>8}{'faults':>8}")
    with tempfile.TemporaryDirectory() as name:
        counts = kill_verbs(Path(name), kills, seed)
    total = [sum(column) for column in zip(*counts.values(), strict=True)]
    print(f"{'all':16}" + "".join(f"{count:8}" for count in total))
    return int(total[-1] > 0)


def count_corrupt(output: Path, expected: bytes) -> int:
    """Checkpoints that are not whole, and a model that would load and is not the one."""
    model = (output / "config.json").exists() and (output / "model.safetensors").read_bytes() != expected
    return model + sum(find_damage(checkpoint) is not None for checkpoint in output.glob("checkpoint-*"))


if __name__ == "__main__":
    sys.exit(main())
