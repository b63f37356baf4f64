#!/usr/bin/env bash
# Runs the GoogleTests of everything that multiplies on a processor with AVX-512 BF16 but without AMX: the AMX kernels
# are the real ones, only their tile instructions are emulated (tests/cpp/tile_emulation.h). Needs the tools that
# CONTRIBUTING.md names for work on the engine. Arguments go to ctest.
set -euo pipefail
cd "$(dirname "$0")/.."

build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
cmake -S . -B "$build/tree" -G Ninja -DGEMMA4_BUILD_TESTS=ON -DGEMMA4_BUILD_MODULE=OFF -DGEMMA4_EMULATE_TILES=ON \
  -DPython_EXECUTABLE="$(command -v python)" >"$build/configure.log" || { cat "$build/configure.log"; exit 1; }
cmake --build "$build/tree" >"$build/build.log" || { cat "$build/build.log"; exit 1; }
if ! "$build/tree/tests/cpp/quant_test" --gtest_list_tests | grep -q amx; then
  echo "this processor lacks AVX-512 BF16" >&2
  exit 1
fi
ctest --test-dir "$build/tree" --output-on-failure --no-tests=error -j 2 "$@" | tail -n 25
