"""Planted faults: does the suite see a wrong sign, a lost factor, an ignored argument?

    python -m tools.mutants [--only PART] [--jobs N]    plant those of mutants.toml, run their tests
    python -m tools.mutants --list, --unmutated         show them; run their tests with no fault

Each is planted by itself in a copy of the tree. Before them the tests run without a fault, since a
test that always fails would catch everything. Exit status 1 unless all faults are caught.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "tools" / "mutants.toml"
ONE_FAULT, ALL_TESTS = 300, 3600  # seconds at most; a fault may make a loop endless
PYTEST = (sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "--tb=no")


@dataclass(frozen=True)
class Fault:
    """In `file` the text `old`, which occurs there once, becomes `new`."""

    name: str
    why: str  # what the fault is
    file: str
    old: str
    new: str
    tests: list[str]  # paths or ids for pytest: what is to see it
    float64: bool = False  # whether they run in float64

    def stale(self) -> str:
        """Why the fault cannot be planted in the tree as it is; empty if it can."""
        path = ROOT / self.file
        count = path.read_text("utf-8").count(self.old) if path.is_file() else 0
        wrong = f"its old text occurs {count} times in {self.file}, and not once; mend its row"
        return "" if count == 1 else wrong


def table() -> list[Fault]:
    """The faults of `mutants.toml`."""
    return [Fault(**row) for row in tomllib.loads(TABLE.read_text("utf-8"))["fault"]]


def copy_tree(target: Path) -> Path:
    """A copy of the tracked files as they are now, the packages where imports look for them."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)
    for name in ("models", "inference", "lens"):
        (target / "probattn" / name).symlink_to(Path("..") / name)
    return target


def run_tests(tree: Path, tests: Any, float64: bool, limit: int) -> tuple[int | None, str, str]:
    """Exit status of pytest, None past the limit; failed tests, a line each; its last line."""
    # All rows share what is compiled, of Python and of JAX: most of it is the same with a fault.
    shared = {"PYTHONPYCACHEPREFIX": "bytecode", "JAX_COMPILATION_CACHE_DIR": "programs"}
    environment = os.environ | {name: str(tree.parent / shared[name]) for name in shared}
    environment |= {"PYTHONPATH": str(tree), "JAX_ENABLE_X64": str(int(float64))}
    environment["PYTHONDONTWRITEBYTECODE"] = ""
    process = subprocess.Popen(
        [*PYTEST, *tests],
        cwd=tree,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        printed = process.communicate(timeout=limit)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # and the processes that a test has started
        process.communicate()
        return None, "", f"stopped after {limit} s"
    lines = printed.strip().splitlines() or ["nothing printed"]
    failed = [line.split()[1] for line in lines if line.startswith(("FAILED ", "ERROR "))]
    return process.returncode, "\n".join(failed), lines[-1]


def fail_anyway(tree: Path, faults: list[Fault]) -> str:
    """Ids of the tests of these faults that fail with none of them planted, a line each."""
    found = ""
    for float64 in (False, True):
        tests = {test for one in faults if one.float64 is float64 for test in one.tests}
        if tests:
            status, failed, last = run_tests(tree, sorted(tests), float64, ALL_TESTS)
            print(f"with no fault, in {'float64' if float64 else 'float32'}: {last}", flush=True)
            found += "" if status == 0 else f"\n{failed or '\n'.join(tests)}"
    return found


def plant(fault: Fault, trees: "Queue[Path]", failing: str) -> str:
    """What came of one fault: its tests run in one of the trees with the fault planted there."""
    if (why := fault.stale()) or any(f"\n{test}" in failing for test in fault.tests):
        return f"STALE: {why}" if why else "ITS TESTS FAIL WITHOUT THE FAULT"
    began, tree = time.monotonic(), trees.get()
    path = tree / fault.file
    whole = path.read_text("utf-8")
    path.write_text(whole.replace(fault.old, fault.new), "utf-8")
    status, failed, last = run_tests(tree, ["-x", *fault.tests], fault.float64, ONE_FAULT)
    path.write_text(whole, "utf-8")
    trees.put(tree)
    if status is None or status == 1 or status < 0:  # None where it hangs, below 0 where it crashes
        return f"caught in {time.monotonic() - began:.0f} s: {failed or last}"
    ran = status == 0 and " passed" in last
    return f"SURVIVES ({last})" if ran else f"NO TEST RAN: pytest exits with {status} ({last})"


def main() -> int:
    """Plant the faults that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutants")
    parser.add_argument("--only", default="", metavar="PART", help="faults with it in their name")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time, a copy for each")
    parser.add_argument("--list", action="store_true", help="show the table and run nothing")
    parser.add_argument("--unmutated", action="store_true", help="run the tests with no fault only")
    asked = parser.parse_args()
    faults, began = [fault for fault in table() if asked.only in fault.name], time.monotonic()
    if asked.list:
        print("\n".join(f"{one.name} ({one.file}): {one.why}" for one in faults))
        return 0
    left, trees = [], Queue()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(asked.jobs) as workers:
        for number in range(asked.jobs):
            trees.put(copy_tree(Path(folder) / f"tree{number}"))
        failing = fail_anyway(trees.queue[0], [fault for fault in faults if not fault.stale()])
        print(f"fail without a fault: {failing or 'none'}", flush=True)
        if asked.unmutated:
            return int(bool(failing))
        words = workers.map(lambda fault: plant(fault, trees, failing), faults)
        for fault, word in zip(faults, words, strict=True):
            print(f"{fault.name}: {word}", flush=True)
            left += [] if word.startswith("caught") else [fault.name]
    print(f"{len(faults) - len(left)} of {len(faults)} caught in {time.monotonic() - began:.0f} s")
    print("not caught:", *left or ["none"])
    return int(bool(left))


if __name__ == "__main__":
    sys.exit(main())
