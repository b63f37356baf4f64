#!/usr/bin/env bash
# Installs the package with its test extra into the active Python environment (some gigabytes: torch, transformers, Ray),
# GoogleTest by apt-get (with sudo) where it is missing, and runs every check: style, types, GoogleTest, pytest. `--slow`
# adds the exhaustive tests; other arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

slow=()
if [ "${1:-}" = "--slow" ]; then
  shift
  slow=(-m "slow or not slow")
fi

step() { printf '\n== %s\n' "$*"; }

if ! [ -e /usr/include/gtest/gtest.h ]; then
  step "GoogleTest (Debian package libgtest-dev)"
  as_root=$([ "$(id -u)" -eq 0 ] || echo sudo)
  $as_root apt-get update -qq
  $as_root apt-get install -y -qq libgtest-dev
fi

step "install"
python -m pip install --quiet ".[test]"

# Of its wheel only the chat templates are read, so that nothing that it depends on is needed.
python -m pip install --quiet --no-deps trl==1.16.0

step "style and types"
ruff check .
ruff format --check .
find cpp tests benchmarks/*.cpp benchmarks/*.h \( -name '*.cpp' -o -name '*.h' \) -exec clang-format --dry-run --Werror {} +
mypy

step "GoogleTest"
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
cmake -S . -B "$build" -G Ninja -DGEMMA4_BUILD_TESTS=ON -DGEMMA4_BUILD_MODULE=OFF \
  -DPython_EXECUTABLE="$(command -v python)" >"$build/configure.log" || { cat "$build/configure.log"; exit 1; }
cmake --build "$build" >"$build/build.log" || { cat "$build/build.log"; exit 1; }
ctest --test-dir "$build" --output-on-failure --no-tests=error -j 2 | tail -n 15

step "pytest"
python -m pytest "${slow[@]}" "$@"
