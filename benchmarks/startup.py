"""How long it takes until something happens: `import unisrec` and quick verbs, against importing torch and transformers first.

    python benchmarks/startup.py

Each measurement is a new process; the plain reference is a command line that imports all it may need when it starts.
"""

import subprocess
import sys

from _timing import compare, header, parser


EVERYTHING = "import torch, polars, datasets, transformers.trainer, transformers.models.bert.modeling_bert"
OURS = {
    "unisrec --help": ["-m", "unisrec", "--help"],
    "unisrec env": ["-m", "unisrec", "env"],
    "import unisrec": ["-c", "import unisrec"],
}


def run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    args = parser(__doc__).parse_args()
    print(header())
    for name, arguments in OURS.items():
        rounds = 1 if args.smoke else args.rounds
        comparison = compare(name, lambda call=arguments: run(*call), lambda: run("-c", EVERYTHING), rounds, calls=1)
        print(comparison.row(), flush=True)


if __name__ == "__main__":
    main()
