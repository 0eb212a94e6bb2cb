"""Whole training commands on a GPU: wall time, targets a second, how long the GPU was at work, and memory.

    python benchmarks/gpu_run.py --text-encoder minilm --domains domains/beauty domains/toys

Each command runs as a user would run it, in a process of its own. Targets a second are the median of the second half of
the run log. The share of the time in which the GPU executed kernels, and the memory in use, are sampled by nvidia-smi while
the trainer logs steps. Further arguments, such as `--static_batches false`, are passed on to each command.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch


COLUMNS = ["command", "wall", "targets/s", "GPU at work", "memory", "metrics"]
SAMPLE_MILLISECONDS = 100


class GPUSamples:
    """Utilisation (%) and memory (MiB) of the first GPU with the time of each sample; none without nvidia-smi."""

    def __init__(self):
        self.rows: list[tuple[float, float, float]] = []
        self._process = None
        if shutil.which("nvidia-smi"):
            query = ["--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits", "--id=0"]
            command = ["nvidia-smi", *query, f"--loop-ms={SAMPLE_MILLISECONDS}"]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._process.stdout:
            busy, memory = (float(number) for number in line.split(","))
            self.rows.append((time.time(), busy, memory))

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def between(self, start: float, end: float) -> tuple[str, str]:
        """Mean utilisation and highest memory from `start` to `end`, seconds since the epoch."""
        rows = [row for row in self.rows if start <= row[0] <= end]
        if not rows:
            return "", ""
        return f"{statistics.fmean(row[1] for row in rows):.0f} %", f"{max(row[2] for row in rows):,.0f} MiB"


def steps_of(log: Path) -> list[dict]:
    """The entries of a run log that belong to training steps; a line that is being written is left out."""
    if not log.exists():
        return []
    lines = [line for line in log.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    return [entry for entry in map(json.loads, lines) if "targets_per_second" in entry]


def run(name: str, arguments: list[str], output: Path, limit: float) -> str:
    """Runs one command and returns its row of the table. Raises `RuntimeError` if it fails or passes `limit` seconds."""
    command = [sys.executable, "-m", "unisrec", *arguments, "--output_dir", str(output)]
    errors, samples, start = output.with_suffix(".err"), GPUSamples(), time.time()
    first = last = None  # when the first and the last step were logged
    with errors.open("w") as stream:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stream)
        count = 0
        while process.poll() is None:
            if time.time() - start > limit:
                process.kill()
                process.wait()
                samples.stop()
                raise RuntimeError(f"{name}: still running after {limit:.0f} s")
            if (found := len(steps_of(output / "log.jsonl"))) > count:
                first, last, count = first or time.time(), time.time(), found
            time.sleep(0.05)
    wall = time.time() - start
    samples.stop()
    if process.returncode:
        raise RuntimeError(f"{name}: exit status {process.returncode}\n{errors.read_text()[-2000:]}")
    rates = [entry["targets_per_second"] for entry in steps_of(output / "log.jsonl")]
    rate = f"{statistics.median(rates[len(rates) // 2 :]):,.0f}" if rates else ""
    busy, memory = samples.between(first, last) if first else ("", "")
    results = output / "test_results.json"
    metrics = json.loads(results.read_text()) if results.exists() else {}
    shown = ", ".join(f"{metric} {metrics[f'test_{metric}']:.4f}" for metric in ("recall@10", "ndcg@10") if metrics)
    return f"| {' | '.join([name, f'{wall:.1f} s', rate, busy, memory, shown])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", nargs="+", required=True, help="domain folders; the first is fine-tuned on")
    parser.add_argument("--text-encoder", default="minilm", help="name or folder of the text encoder")
    parser.add_argument("--text-pooling", help="pooling of the encoder, if its files do not say it")
    parser.add_argument("--steps", type=int, default=400, help="steps of pre-training, of each kind")
    parser.add_argument("--targets", type=int, nargs="+", default=[2048, 8192], help="targets a step")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 8], help="data workers to try")
    parser.add_argument("--limit", type=float, default=100, help="seconds that a command may take")
    parser.add_argument("--no-finetune", action="store_true", help="leave out `finetune --config fast`")
    args, rest = parser.parse_known_args()
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"{name}, torch {torch.__version__}\n\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    encoder = ["--text-encoder", args.text_encoder]
    if args.text_pooling:
        encoder += ["--text-pooling", args.text_pooling]
    common = ["--disable_tqdm", "true", "--save_strategy", "no", "--eval_strategy", "no"]
    common += ["--logging_steps", str(max(1, args.steps // 20)), *rest, "--max_steps", str(args.steps)]
    with tempfile.TemporaryDirectory() as folder:
        encode = ["pretrain", "--domains", *args.domains, *encoder, *common[:-1], "1"]
        print(run("pretrain, one step (texts encoded)", encode, Path(folder, "encode"), args.limit), flush=True)
        for recipe, options in (("mixed", []), ("one domain", ["--batch_domains", "one", "--num_negatives", "2048"])):
            for targets in args.targets:
                for workers in args.workers:
                    batch = ["--per_device_train_batch_size", str(targets), "--dataloader_num_workers", str(workers)]
                    output = Path(folder, f"{recipe.split()[0]}-{targets}-{workers}")
                    title = f"pretrain, {recipe}, {targets:,} a step, {workers} workers"
                    words = ["pretrain", "--domains", *args.domains, *encoder, *common, *batch, *options]
                    print(run(title, words, output, args.limit), flush=True)
        if not args.no_finetune:
            words = ["finetune", "--model", str(output), "--domain", args.domains[0], "--setting", "transductive"]
            words += ["--config", "fast", "--disable_tqdm", "true", *rest]
            print(run("finetune, fast, text + ID", words, Path(folder, "finetuned"), args.limit), flush=True)


if __name__ == "__main__":
    main()
