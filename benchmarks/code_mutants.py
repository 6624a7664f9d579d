"""Change moments, linear algebra and metrics in one place at a time, and count the changes that some test sees.

    pip install mutmut==3.8.1
    python benchmarks/code_mutants.py --sample 800 --out benchmarks/results/code_mutants.csv

mutmut makes every mutant (comparisons, operators, numbers, strings, arguments, assignments, branches) in a copy of the
files that git tracks, runs the tests once to see which function each reaches, and then those tests for each mutant of a
seeded sample that has of each file its share. ``--again`` runs the survivors of an earlier table only.

A mutant that differs from the code in words only (strings with a space, and arguments of ``raise`` and ``warn``) is of
the kind "words", any other of the kind "code". Killed is a mutant that some test fails with, or that runs 15 times as
long as the tests did; a mutant that no test reaches has survived. Mutants that mean the same as the code are counted as
survivors, since only a reader can tell.
"""

from __future__ import annotations

import ast
import csv
import filecmp
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import asdict, dataclass
from difflib import ndiff
from pathlib import Path

import click

SOURCE = Path(__file__).parents[1]
# Between caller and function mutmut has a trampoline: left out are tests of the line that a warning names, and of what
# a class has.
SETTINGS = """\
[mutmut]
source_paths=icrkit
only_mutate=
    icrkit/moments.py
    icrkit/linalg.py
    icrkit/_variation.py
    icrkit/backends/*.py
    icrkit/metrics/*.py
also_copy=
    extractors
    tests
    benchmarks
    docs
    README.md
pytest_add_cli_args=
    -p
    no:cacheprovider
    -k
    not taken_and_said and not infinitely_bad_and_said and not public_methods_are_described
pytest_add_cli_args_test_selection=
    tests/metrics
    tests/backends
    tests/test_linalg.py
    tests/test_moments.py
    tests/test_variation.py
    tests/test_features.py
    tests/test_common.py
    tests/test_agreement.py
"""
OUTCOMES = {None: "not run", 0: "survived", 1: "killed", 3: "killed", 5: "no test", 33: "no test"}
OUTCOMES |= {-9: "killed", -11: "killed"}
TIMEOUTS = (-24, 24, 36, 152, 255)


@dataclass(frozen=True)
class Mutant:
    """One change, and what came of it."""

    name: str
    file: str
    kind: str
    outcome: str
    change: str


class _Words(ast.NodeTransformer):
    """Blank what only a person reads: sentences, and whatever a raised error or a warning is made of."""

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.Constant(" ") if isinstance(node.value, str) and " " in node.value else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return ast.Constant(" ")

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            return ast.Raise(ast.Call(node.exc.func, [], []), node.cause)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if ast.unparse(node.func) == "warnings.warn":
            return ast.Call(node.func, [], [])
        return self.generic_visit(node)


def copy_tracked_files(folder: Path) -> None:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=SOURCE, check=True, capture_output=True, text=True).stdout
    for name in names.rstrip("\0").split("\0"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / name).exists() or not filecmp.cmp(SOURCE / name, folder / name, shallow=False):
            shutil.copyfile(SOURCE / name, folder / name)
    (folder / "setup.cfg").write_text(SETTINGS)


def run_mutmut(folder: Path, names: Iterable[str], processes: int) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(processes), *names]
    subprocess.run(command, cwd=folder, check=True, env=environment)


def exit_codes(folder: Path) -> dict[str, dict[str, int | None]]:
    """The exit code of every mutant, by file and name; None before it was run."""
    found = {}
    for path in sorted((folder / "mutants" / "icrkit").rglob("*.meta")):
        codes = json.loads(path.read_text())["exit_code_by_key"]
        if codes:
            found[str(path.relative_to(folder / "mutants").with_suffix(""))] = codes
    return found


def sample(names: dict[str, list[str]], count: int, seed: int) -> list[str]:
    """Of each file its share of the mutants, at least one."""
    rng = random.Random(seed)
    share = count / sum(map(len, names.values()))
    return [
        name
        for of_file in names.values()
        for name in rng.sample(of_file, min(len(of_file), max(1, round(share * len(of_file)))))
    ]


def functions(path: Path) -> dict[str, ast.AST]:
    """Every function and method of a file of mutants, by name: mutmut's names are unique in a file."""
    tree = ast.parse(path.read_text())
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def read_mutants(folder: Path, names: Iterable[str]) -> list[Mutant]:
    wanted = set(names)
    found = []
    for file, codes in exit_codes(folder).items():
        of_file = wanted & set(codes)
        if not of_file:
            continue
        by_name = functions(folder / "mutants" / file)
        for name in sorted(of_file):
            function = name.rpartition(".")[2]
            original, mutated = by_name[function.rpartition("_")[0] + "_orig"], by_name[function]
            before, after = (ast.unparse(node).splitlines()[1:] for node in (original, mutated))
            change = " / ".join(line for line in ndiff(before, after) if line[0] in "+-")
            blank = [
                [ast.unparse(_Words().visit(deepcopy(line))) for line in node.body] for node in (original, mutated)
            ]
            code = codes[name]
            outcome = "timeout" if code in TIMEOUTS else OUTCOMES.get(code, f"exit code {code}")
            found.append(Mutant(name, file, "words" if blank[0] == blank[1] else "code", outcome, change))
    return found


def print_figures(mutants: list[Mutant]) -> None:
    by_file: dict[str, Counter[str]] = defaultdict(Counter)
    for mutant in mutants:
        by_file[mutant.file][mutant.outcome] += 1
    for file, outcomes in by_file.items():
        print(f"{file:40} {dict(outcomes)}")
    for kinds in (("code", "words"), ("code",), ("words",)):
        of_kind = [mutant for mutant in mutants if mutant.kind in kinds]
        killed = sum(mutant.outcome in ("killed", "timeout") for mutant in of_kind)
        timeouts = sum(mutant.outcome == "timeout" for mutant in of_kind)
        share = killed / max(1, len(of_kind))
        print(f"{' and '.join(kinds)}: {killed} of {len(of_kind)} killed ({share:.1%}), {timeouts} by the clock")


def write_table(mutants: list[Mutant], out: Path) -> None:
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(asdict(mutants[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, mutants))


@click.command(help=__doc__.partition("\n")[0])
@click.option("--sample", "count", default=800, show_default=True, help="How many mutants.")
@click.option("--seed", default=0, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), default="runs/code_mutants", show_default=True)
@click.option("--processes", default=2, show_default=True)
@click.option("--again", type=click.Path(path_type=Path, exists=True), help="Table whose survivors are run again.")
@click.option("--out", type=click.Path(path_type=Path), default=SOURCE / "benchmarks/results/code_mutants.csv")
def main(count: int, seed: int, folder: Path, processes: int, again: Path | None, out: Path) -> None:
    copy_tracked_files(folder)
    if not exit_codes(folder):
        run_mutmut(folder, ["icrkit.linalg.*__mutmut_1"], processes)  # makes all of them, and runs the tests once
    if again:
        with again.open(encoding="utf-8") as file:
            names = [row["name"] for row in csv.DictReader(file) if row["outcome"] in ("survived", "no test")]
    else:
        names = sample({file: sorted(codes) for file, codes in exit_codes(folder).items()}, count, seed)
    run_mutmut(folder, names, processes)
    mutants = read_mutants(folder, names)
    write_table(mutants, out)
    print_figures(mutants)


if __name__ == "__main__":
    main()
