"""Bad input over the whole command line: what is refused gets one line and status 2, and leaves nothing behind.

    python benchmarks/fuzz.py --seed 0                     # all cases, minutes
    python benchmarks/fuzz.py --cases 200 --only evaluate  # some of them
    python benchmarks/fuzz.py --match "index with"         # those whose name holds it, with what each answered

Each case is a command line with its input: edited checkpoints, domains, indexes, raw files and YAML files, odd arguments, and
machines with full disks, files that may not be read or few open files. It runs in a process forked from one that has the
libraries loaded, in a folder of its own; a few run in a new interpreter too, and must end in the same way. A miss is a status
other than 0 or 2 (or 130 and 141 where that is the case), a traceback, a refusal of more or less than one line or of a line
that names nothing, files left behind by a refusal, and an answer that is not what the case expects.

Status 1 if there are misses.
"""

import argparse
import collections
import dataclasses
import gc
import hashlib
import importlib
import json
import os
import random
import re
import resource
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from _fuzz_arguments import argument_cases
from _fuzz_case import REFUSED, TAKEN, Case
from _fuzz_checkpoints import checkpoint_cases
from _fuzz_data import data_cases
from _fuzz_files import file_cases
from _fuzz_folders import folder_cases
from _fuzz_machines import machine_cases
from _fuzz_world import build_world, run


LONGEST = 300  # seconds a case may take, also on a busy machine
MANY = 200  # cases that repay 20 s of imports
MEMORY = 16 << 30  # bytes of address space; PyTorch alone takes a few
NOBODY = 65534
DRAFT = re.compile(r"\.tmp$|^\.saving|\.\d+\.|^\.[0-9a-z_]{8}|^\.old|\.incomplete$|\.lock$")
CONTEXT = re.compile(r" \([^(]* while running `.*; UNISREC_DEBUG=1 shows where\)$")
BAR = re.compile(r"\d+%\|")


@dataclasses.dataclass
class Answer:
    """How a command ended."""

    status: int  # minus the signal, where one ended it
    out: str
    err: str
    before: dict[str, str] = dataclasses.field(default_factory=dict)  # files with their hashes
    after: dict[str, str] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0


def all_cases(seed: int) -> list[Case]:
    """Each case once, in a fixed order."""
    rng = random.Random(seed)
    cases = [
        case
        for source in (checkpoint_cases, folder_cases, data_cases, file_cases, argument_cases, machine_cases)
        for case in source(rng)
    ]
    cases = [case for case in cases if case.machine != "skip"]
    keys = collections.Counter(case.key for case in cases)
    if double := [key for key, count in keys.items() if count > 1]:
        raise ValueError(f"cases of one name: {double}")
    return cases


def files_of(folder: Path) -> dict[str, str]:
    """Hash of each file below a folder, `base` left out; folders and links are told by their kind."""
    found = {}
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if Path(place, name) != folder / "base"]
        for name in [*folders, *files]:
            path = Path(place, name)
            key = path.relative_to(folder).as_posix()
            if path.is_symlink() or not path.is_file():
                found[key] = "link" if path.is_symlink() else "folder"
            else:
                found[key] = hashlib.sha1(path.read_bytes()).hexdigest()
    return found


def in_fork(work: Callable[[], int], timeout: float, output: str = "") -> Answer:
    """Runs a function in a child of this process, as the interpreter would run a program."""
    start = time.monotonic()
    pipes = [os.pipe(), os.pipe()]
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            for target, (_, end) in zip((1, 2), pipes, strict=True):
                os.dup2(end, target)
            for ends in pipes:
                for end in ends:
                    os.close(end)
            _spoil_output(output)
            try:
                status = work()
                if sys.stdout is not None:
                    sys.stdout.flush()
            except SystemExit as stop:
                status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
            except BaseException:
                traceback.print_exc()
                status = 1
            try:
                sys.stderr.flush()
                if sys.stdout is not None:
                    sys.stdout.flush()
            except OSError:
                status = 120  # as the interpreter has it
            os._exit(status or 0)
        finally:
            os._exit(121)
    parts = {}
    with selectors.DefaultSelector() as selector:
        for reader, writer in pipes:
            os.close(writer)
            parts[reader] = []
            selector.register(reader, selectors.EVENT_READ)
        while selector.get_map():
            left = timeout - (time.monotonic() - start)
            ready = selector.select(max(0, left)) if left > 0 else []
            if not ready:
                os.killpg(child, signal.SIGKILL)
                break
            for key, _ in ready:
                if block := os.read(key.fd, 1 << 16):
                    parts[key.fd].append(block)
                else:
                    selector.unregister(key.fd)
    for reader, _ in pipes:
        os.close(reader)
    _, code = os.waitpid(child, 0)
    out, err = (b"".join(blocks).decode(errors="replace") for blocks in parts.values())
    return Answer(os.waitstatus_to_exitcode(code), out, err, seconds=time.monotonic() - start)


def _spoil_output(machine: str) -> None:
    """Standard output of a case: a full disk, closed, without a reader, or in a code page."""
    kind, _, value = machine.partition(" ")
    if machine == "stdout full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    elif machine == "stdout closed":
        os.close(1)
        sys.stdout = None
    elif machine == "stdout left":
        reader, writer = os.pipe()
        os.dup2(writer, 1)
        os.close(reader)
    elif kind == "code":
        sys.stdout = open(1, "w", encoding=value, errors="strict", closefd=False)  # noqa: SIM115 (until the end)
        sys.stderr = open(2, "w", encoding=value, errors="backslashreplace", closefd=False)  # noqa: SIM115


def _spoil_machine(machine: str) -> None:
    """`room N`: files of N bytes at most. `files N`: so many open ones. `nobody`: a user without rights. `interrupt`: Ctrl-C."""
    kind, _, value = machine.partition(" ")
    if kind == "room":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(value), int(value)))
    elif kind == "files":
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(value), int(value)))
    elif kind == "nobody" and os.geteuid() == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    elif kind == "interrupt":
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
        signal.setitimer(signal.ITIMER_REAL, 0.05)


def prepare_case(case: Case, folder: Path, world: Path, seed: int) -> None:
    """Makes the input of a case in its folder, and enters it."""
    (folder / "base").symlink_to(world)
    (folder / "tmp").mkdir()
    os.chdir(folder)
    rng = random.Random(f"{seed} {case.key}")
    for change in case.changes:
        change(rng)
    for path in (folder, folder / "tmp"):
        path.chmod(0o777)
    Path(f"{folder}.json").write_text(json.dumps(files_of(folder)))
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder / "tmp")


def run_case(case: Case, folder: Path, world: Path, seed: int, new_interpreter: bool = False) -> Answer:
    """Runs a case in a folder, which is removed again."""
    from unisrec.cli import main

    folder.mkdir(parents=True)

    def work() -> int:
        prepare_case(case, folder, world, seed)
        _spoil_machine(case.machine)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        sys.argv = ["unisrec", *case.words]
        return main(case.words)

    def work_anew() -> int:
        prepare_case(case, folder, world, seed)
        return subprocess.run([sys.executable, "-m", "unisrec", *case.words]).returncode

    answer = in_fork(work_anew if new_interpreter else work, LONGEST * (1 + 4 * new_interpreter), case.machine)
    before = Path(f"{folder}.json")
    answer.before = json.loads(before.read_text()) if before.is_file() else {}
    if os.geteuid() != 0:
        for path in folder.rglob("*"):
            if not path.is_symlink():
                path.chmod(0o700)
    answer.after = files_of(folder)
    shutil.rmtree(folder)
    before.unlink(missing_ok=True)
    return answer


def misses_of(case: Case, answer: Answer) -> list[str]:
    """What is wrong with an answer, each as a kind and a detail."""
    if not answer.before:
        return [f"the case itself fails: {answer.err.strip()[-500:]}"]
    err = answer.err.strip()
    if case.machine.startswith("files"):
        err = (
            "\n".join([line for line in err.splitlines() if line.startswith("unisrec ")][-1:]) or err
        )  # polars says much of its own about threads that cannot start
    lines = [line for line in re.split(r"[\n\r]", err) if line.strip() and not BAR.search(line)]
    allowed = (
        {0, 2}
        | ({141} if case.machine == "stdout left" else set())
        | ({130} if case.machine == "interrupt" else set())
    )
    if answer.status == -signal.SIGKILL:
        return [f"does not end within {LONGEST} s"]
    if "Traceback" in err:
        return [f"traceback: {lines[-1][:300]}"]
    if answer.status not in allowed:
        return [f"status {answer.status}: {err[-300:]}"]
    found = []
    new = {path for path in answer.after if path not in answer.before and not path.startswith("tmp/")}
    changed = {path for path, value in answer.before.items() if answer.after.get(path) != value}
    if answer.status == 130 and case.verb in ("pretrain", "finetune"):
        return found  # the run can go on
    if case.machine.startswith("files"):  # a scratch folder of Python's cannot be removed then
        answer.after = {path: value for path, value in answer.after.items() if not path.startswith("tmp/")}
    if drafts := [
        path
        for path in answer.after
        if path.startswith("tmp/") or (path in new and DRAFT.search(path.rpartition("/")[2]))
    ]:
        found.append(f"drafts left: {drafts[:3]}")
    if answer.status == 0:
        if case.expect == REFUSED:
            found.append(f"accepted: {(answer.out.strip().splitlines() or [''])[-1][:100]}")
        if odd := [
            path
            for path in new | changed
            if not any(path == name or path.startswith(f"{name}/") for name in case.outputs)
        ]:
            found.append(f"files that were not asked for: {sorted(odd)[:3]}")
        return found
    if answer.status in (130, 141):
        return found
    if case.expect == TAKEN:
        found.append(f"refused: {err[-300:]}")
    caches = {path for path in new | changed if "text_features" in path}
    if case.machine.startswith("stdout"):  # the work is done, only its report is lost
        caches |= {path for path in new | changed if path.split("/")[0] in case.outputs}
    if left := sorted((new | changed) - caches):
        found.append(f"left behind: {left[:3]}")
    said = [line for line in lines if line.startswith("unisrec")]
    if len(lines) != 1 or len(said) != 1:
        found.append(f"{len(lines)} lines: {err[:400]!r}")
    if said:
        message = CONTEXT.sub("", said[-1].partition("error: ")[2])
        if len(message.split()) < 4:
            found.append(f"no substance: {said[-1]}")
        elif not re.search(case.says, message, re.IGNORECASE):
            found.append(f"names nothing of {case.says!r}: {said[-1][:400]}")
    return found


def load_libraries(names: Sequence[str]) -> None:
    """Imports what the verbs import, so that forked processes need not."""
    for name in names:
        try:
            importlib.import_module(name)
        except Exception:  # a module that another one made
            continue
    gc.collect()
    gc.freeze()


def load_model(world: Path) -> None:
    """Loads a model, so that forked processes have what transformers works out then."""
    from unisrec.modeling_unisrec import UniSRecModel

    UniSRecModel.from_pretrained(world / "ind")
    gc.collect()
    gc.freeze()


def warm_up(world: Path, names: Path, num_cases: int) -> int:
    """Builds the world and notes the modules that were loaded; where many cases follow, also those of the other verbs."""
    build_world(world)
    if num_cases >= MANY:
        use_world(world, world.parent / "warm")
    names.write_text(json.dumps([name for name in sys.modules if not name.startswith(("_fuzz", "__"))]))
    return 0


def use_world(world: Path, out: Path) -> None:
    """Runs the verbs that build no part of the world, for their imports."""
    run("demo", world / "ind", "--export-space", out / "space")
    run("export", world / "ind", "--output", out / "onnx")
    run("plot", "gates", world / "ind", "--domains", world / "shop", "--use-cpu", "--output", out / "gates.png")
    run("plot", "curves", world / "long", "--output", out / "curves.png")
    for end in ("csv", "jsonl", "parquet"):
        histories = world / f"histories.{end}"
        run("recommend", "--model", world / "lora", "--input", histories, "--output", out / f"out.{end}")
    run(
        "prepare",
        "online-retail",
        "--input",
        world / "retail.xlsx",
        "--user-k",
        1,
        "--item-k",
        1,
        "--output",
        out / "retail",
    )


def main() -> int:
    """Runs the cases and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, metavar="N", help="so many, drawn by the seed (all)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of what is drawn (0)")
    parser.add_argument("--only", nargs="+", metavar="VERB", help="cases of these verbs")
    parser.add_argument("--match", metavar="REGEX", help="cases whose name matches; prints their answers")
    parser.add_argument(
        "--interpreters", type=int, default=4, metavar="N", help="cases that run in a new interpreter too (4)"
    )
    parser.add_argument(
        "--world", metavar="DIR", help="the sound world of an earlier run, or a new folder for it (built anew)"
    )
    args = parser.parse_args()
    # Before anything is loaded. A fork has the thread that called it alone.
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ["OMP_NUM_THREADS"] = "1"
    start = time.monotonic()
    cases = [case for case in all_cases(args.seed) if args.only is None or case.verb in args.only]
    if args.match is not None:
        cases = [case for case in cases if re.search(args.match, case.key)]
    cases = [
        case if case.words[:1] == (case.verb,) else dataclasses.replace(case, words=(case.verb, *case.words))
        for case in cases
    ]
    rng = random.Random(args.seed)
    if args.cases is not None and args.cases < len(cases):
        cases = rng.sample(cases, args.cases)
    with tempfile.TemporaryDirectory(prefix="unisrec-fuzz-") as root:
        Path(root).chmod(0o755)
        store = Path(args.world or root).absolute()
        world, names = store / "world", store / "modules.json"
        if not names.is_file():
            load_libraries(["unisrec.trainer", "unisrec.recommender", "unisrec.fitting", "peft"])
            built = in_fork(lambda: warm_up(world, names, len(cases)), 600)
            if built.status:
                raise RuntimeError(f"the world cannot be built:\n{built.err}")
        load_libraries(json.loads(names.read_text()))
        load_model(world)
        sound = {path: value for path, value in files_of(world).items() if "text_features" not in path}
        anew = (
            {
                case.key
                for case in rng.sample(
                    [case for case in cases if not case.machine], min(args.interpreters, len(cases))
                )
            }
            if args.match is None
            else set()
        )
        table = collections.defaultdict(collections.Counter)
        misses, slowest = [], []
        for number, case in enumerate(cases):
            folder = Path(root, "cases", str(number))
            answer = run_case(case, folder, world, args.seed)
            found = misses_of(case, answer)
            if case.key in anew:
                again = run_case(case, folder, world, args.seed, new_interpreter=True)
                if again.status != answer.status:
                    found.append(
                        f"status {answer.status} in a fork, {again.status} in a new interpreter: {again.err[-300:]}"
                    )
            row = table[case.verb]
            row["inputs"] += 1
            row["refused" if answer.status == 2 else "taken" if answer.status == 0 else "other"] += 1
            row["general rule"] += "UNISREC_DEBUG=1" in answer.err
            row["misses"] += bool(found)
            misses += found
            for miss in found:
                print(f"MISS {case.key}\n    {miss}", flush=True)
            slowest.append((answer.seconds, case.key))
            if args.match is not None:
                print(f"{case.key}\n    {answer.status} {answer.err.strip()[-600:] or answer.out.strip()[-200:]}")
        if odd := [path for path, value in sound.items() if files_of(world).get(path) != value]:
            misses.append("the world")
            print(f"MISS the sound world was changed: {odd[:5]}")
    columns = ("inputs", "refused", "taken", "other", "general rule", "misses")
    print(f"\n{'':12}" + "".join(f"{column:>14}" for column in columns))
    for verb, row in [*sorted(table.items()), ("all", sum(table.values(), collections.Counter()))]:
        print(f"{verb:12}" + "".join(f"{row[column]:14,}" for column in columns))
    print(
        f"\nseed {args.seed}, {time.monotonic() - start:.0f} s; slowest: "
        + ", ".join(f"{key[:60]} {seconds:.1f} s" for seconds, key in sorted(slowest)[-3:])
    )
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
