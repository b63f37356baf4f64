#!/usr/bin/env bash
# Cross-compiles the engine for AArch64 and runs its GoogleTests under QEMU: the NEON kernels against the scalar ones,
# and the whole engine on top of them. Needs Debian's g++-aarch64-linux-gnu, qemu-user and googletest, which it installs
# where they are missing, and the AArch64 wheel of scipy-openblas32 from PyPI. Arguments go to ctest.
set -euo pipefail
cd "$(dirname "$0")/.."

for tool in aarch64-linux-gnu-g++ qemu-aarch64 /usr/src/googletest/CMakeLists.txt; do
  if ! command -v "$tool" >/dev/null && ! [ -e "$tool" ]; then
    as_root=$([ "$(id -u)" -eq 0 ] || echo sudo)
    $as_root apt-get update -qq
    $as_root apt-get install -y -qq g++-aarch64-linux-gnu qemu-user googletest
    break
  fi
done

build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
openblas=$(grep -o 'scipy-openblas32==[0-9.]*' pyproject.toml | head -n 1)
python -m pip download --quiet --no-deps --only-binary=:all: --platform manylinux_2_28_aarch64 \
  --dest "$build/wheel" "$openblas"
python -m zipfile -e "$build"/wheel/*.whl "$build/openblas"

cmake -S . -B "$build/tree" -G Ninja --toolchain tests/aarch64.cmake -DGEMMA4_BUILD_TESTS=ON -DGEMMA4_BUILD_MODULE=OFF \
  -DPython_EXECUTABLE="$(command -v python)" -DOPENBLAS_LIB="$build/openblas/scipy_openblas32/lib" \
  >"$build/configure.log" || { cat "$build/configure.log"; exit 1; }
cmake --build "$build/tree" >"$build/build.log" || { cat "$build/build.log"; exit 1; }
# OpenBLAS would choose its SVE kernels, which give wrong products under QEMU.
export OPENBLAS_CORETYPE=ARMV8
ctest --test-dir "$build/tree" --output-on-failure --no-tests=error -j 2 "$@" | tail -n 25
