#!/usr/bin/env bash
# clang-tidy over the C++ files of the package that are compiled on this machine, with the checks of .clang-tidy;
# arguments go to it (`tests/tidy.sh --fix`). Needs the test extra and some minutes.
set -euo pipefail
cd "$(dirname "$0")/.."

python -m pip install --quiet clang-tidy==23.1.4 'pybind11>=3'
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
cmake -S . -B "$build" -G Ninja -DCMAKE_EXPORT_COMPILE_COMMANDS=ON \
  -DPython_EXECUTABLE="$(command -v python)" -Dpybind11_DIR="$(python -m pybind11 --cmakedir)" \
  >"$build/configure.log" || { cat "$build/configure.log"; exit 1; }

# Headers are reported with each file that includes them: once is enough.
python - "$build" "$@" <<'PYTHON'
import concurrent.futures, json, os, re, subprocess, sys
build, *options = sys.argv[1:]
commands = json.load(open(f"{build}/compile_commands.json"))
files = sorted({entry["file"] for entry in commands if entry["file"].startswith(os.path.abspath("cpp"))})
# With --fix one after the other: they share headers.
workers = 1 if "--fix" in options else os.cpu_count()
def tidy(path):
    return subprocess.run(["clang-tidy", "--quiet", "-p", build, *options, path], capture_output=True, text=True)
with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    runs = list(pool.map(tidy, files))
found = dict.fromkeys(part for run in runs for part in re.split(r"^(?=/)", run.stdout, flags=re.M) if part.strip())
print("".join(found))
print(f"{len(files)} files, {len(found)} findings")
sys.exit(any(run.returncode for run in runs))
PYTHON
