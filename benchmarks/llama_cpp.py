"""llama.cpp as a competitor: built from the source package that `llama-cpp-python` vendors, in its best configuration
for this processor, run by its own programs, and read from what they print.

Knows: llama.cpp's build options, programs and their output. Must not know: this package's engine.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PACKAGE = "llama-cpp-python==0.3.36"
PROGRAMS = ("llama-bench", "llama-mtmd-cli", "llama-completion", "llama-quantize")
_VENDORED = "vendor/llama.cpp"

# -- building ----------------------------------------------------------------------------------------------------------

# CMake option -> what /proc/cpuinfo must list for it
_OPTIONS = {
    "GGML_SSE42": ("sse4_2",),
    "GGML_AVX": ("avx",),
    "GGML_AVX2": ("avx2",),
    "GGML_F16C": ("f16c",),
    "GGML_FMA": ("fma",),
    "GGML_BMI2": ("bmi2",),
    "GGML_AVX_VNNI": ("avx_vnni",),
    "GGML_AVX512": ("avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"),
    "GGML_AVX512_VBMI": ("avx512vbmi",),
    "GGML_AVX512_VNNI": ("avx512_vnni",),
    "GGML_AVX512_BF16": ("avx512_bf16",),
}
_BEYOND = {"avx2": ("avx512", "avx_vnni", "amx"), "avx512vnni": ("avx512_bf16", "amx"), "avx512bf16": ("amx",)}
_AMX = {"GGML_AMX_TILE": "amx_tile", "GGML_AMX_INT8": "amx_int8", "GGML_AMX_BF16": "amx_bf16"}
_TILE_CONFIG = Path(__file__).with_name("tile_config.h")
# Linux hands out the tiles on request; where it refuses, a build with them would die.
_AMX_TEST = """
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
int main() {
  if (syscall(SYS_arch_prctl, 0x1023, 18)) return 1;
  // Volatile: the intrinsic of GCC 12 names only eight bytes as read, and stores to the others would be dropped.
  alignas(64) volatile unsigned char shape[64] = {1};
  for (int t = 0; t < 3; ++t) { shape[16 + 2 * t] = 64; shape[48 + t] = 16; }
  _tile_loadconfig(const_cast<unsigned char*>(shape));
  _tile_zero(0);
  _tile_dpbssd(0, 1, 2);
  _tile_release();
  return 0;
}
"""


def cpu_flags(text: str | None = None) -> set[str]:
    """Features of the processor as /proc/cpuinfo lists them; none on other systems. With GEMMA4_ISA in the environment,
    those of a processor without more."""
    if text is None:
        path = Path("/proc/cpuinfo")
        text = path.read_text() if path.is_file() else ""
    found = re.search(r"^flags\s*:(.*)$", text, re.M)
    flags = set(found[1].split()) if found else set()
    beyond = _BEYOND.get(os.environ.get("GEMMA4_ISA", ""), ())
    return {flag for flag in flags if not flag.startswith(beyond)}


def amx_runs() -> bool:
    """Whether a matrix instruction gets through; compiled and tried in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "amx.cpp"), Path(folder, "amx")
        source.write_text(_AMX_TEST)
        command = ["g++", "-O1", "-mamx-tile", "-mamx-int8", str(source), "-o", str(program)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return False
        return subprocess.run([program], capture_output=True, check=False).returncode == 0


def cmake_options(flags: set[str], amx: bool) -> list[str]:
    """CMake's arguments: everything that this processor runs, by name, because `-march=native` believes CPUID.

    On a processor without these names (not x86) the build is left to choose for itself.
    """
    options = {"CMAKE_BUILD_TYPE": "Release", "LLAMA_CURL": "OFF", "LLAMA_OPENSSL": "OFF", "LLAMA_BUILD_TESTS": "OFF"}
    options |= {"LLAMA_BUILD_EXAMPLES": "OFF", "LLAMA_BUILD_SERVER": "OFF", "LLAMA_BUILD_UI": "OFF"}
    if flags:
        tune = {"CMAKE_C_FLAGS": "-mtune=native", "CMAKE_CXX_FLAGS": f"-mtune=native -include {_TILE_CONFIG}"}
        options |= {"GGML_NATIVE": "OFF", **tune}
        options |= {name: "ON" if flags.issuperset(needed) else "OFF" for name, needed in _OPTIONS.items()}
        options |= {name: "ON" if amx and needed in flags else "OFF" for name, needed in _AMX.items()}
    return [f"-D{name}={value}" for name, value in options.items()]


def fetch(folder: Path) -> Path:
    """The source tree of llama.cpp, unpacked under `folder` from the source package."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = PACKAGE.replace("-", "_").replace("==", "-")
    source = folder / stem / _VENDORED
    if not source.is_dir():
        # From source for this package alone: ":all:" would compile what builds it, too.
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", PACKAGE.partition("==")[0]]
        subprocess.run([*command, "-d", str(folder), PACKAGE], check=True)
        with tarfile.open(folder / f"{stem}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
    return source


def build(source: Path, folder: Path) -> list[str]:
    """Compile the programs; takes twenty minutes on two cores. Returns CMake's options."""
    flags = cpu_flags()
    options = cmake_options(flags, "amx_tile" in flags and amx_runs())
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    subprocess.run(["cmake", "-S", str(source), "-B", str(folder), *generator, *options], check=True)
    subprocess.run(["cmake", "--build", str(folder), "-j", "--target", *PROGRAMS], check=True)
    return options


# -- running -----------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """What a child process took, and what it printed: results first, then messages."""

    text: str
    seconds: float
    peak_bytes: int


def run(command: list[Any]) -> Run:
    """Run a program to its end; its wall time and its own peak of physical memory.

    Raises:
        RuntimeError: it failed; the message has its last lines.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        child = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=out, stderr=log)
        _, status, usage = os.wait4(child.pid, 0)  # not wait(): only this one tells the child's own peak
        seconds = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for file in (out, log):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    text = "".join(texts)
    if child.returncode:
        raise RuntimeError(f"{Path(str(command[0])).name} failed ({child.returncode}): {text[-600:]}")
    return Run(text, seconds, usage.ru_maxrss * 1024)


@dataclass(frozen=True)
class LlamaCpp:
    """A build of llama.cpp."""

    build: Path
    source: Path
    threads: int = 2
    flash: str = "auto"
    """`-fa`: "on", "off" or "auto"; the faster one is found by `faster_attention`."""
    extra: tuple[str, ...] = field(default=())

    def bench(self, model: Path, *arguments: Any, flash: str | None = None, repeats: int = 2) -> tuple[list[Row], Run]:
        """`llama-bench` with its own warm-up; its rows, and the process.

        Its default thread polling and weight repacking are kept: they are what its users get, and faster.
        """
        common = ["-m", model, "-t", self.threads, "-fa", flash or self.flash, "-r", repeats, "-o", "json"]
        done = run([program(self, "llama-bench"), *common, *self.extra, *arguments])
        return parse_bench(done.text), done

    def media(self, model: Path, mmproj: Path, kind: str, files: list[Path]) -> list[float]:
        """Seconds of the encoder for each picture or sound, by `llama-mtmd-cli`, in one process."""
        prompt = " then ".join(["<__media__>"] * len(files)) + " what?"
        given = [part for file in files for part in (f"--{kind}", file)]
        command = ["-m", model, "--mmproj", mmproj, "-t", self.threads, "-c", 8192, "-n", 1, "--temp", 0, "--jinja"]
        done = run([program(self, "llama-mtmd-cli"), *command, "-fa", self.flash, *given, "-p", prompt])
        taken = parse_media(done.text)
        if len(taken) != len(files):
            raise RuntimeError(f"llama-mtmd-cli: {len(files)} were given, {len(taken)} timings were printed")
        return taken

    def first_token(self, model: Path, repack: bool = True) -> Run:
        """A process that loads a model and says one token after a short prompt."""
        command = ["-m", model, "-t", self.threads, "-c", 512, "-n", 1, "--no-warmup", "-no-cnv", "--temp", 0]
        command += [] if repack else ["--no-repack"]
        return run([program(self, "llama-completion"), *command, "-fa", self.flash, "-p", "abc def ghi jkl"])

    def cache_bytes(self, model: Path, context: int, kind: str) -> int:
        """Bytes of keys and values for a context, as it says when it allocates them."""
        command = ["-m", model, "-t", self.threads, "-c", context, "-n", 1, "--no-warmup", "-no-cnv", "--no-repack"]
        types = ["-ctk", kind, "-ctv", kind, "-fa", "on", "-p", "abc", "-lv", 4]
        return parse_cache(run([program(self, "llama-completion"), *command, *types]).text)


def program(llama: LlamaCpp, name: str) -> Path:
    """Raises RuntimeError where it was not built."""
    path = llama.build.resolve() / "bin" / name
    if not path.is_file():
        raise RuntimeError(f"{path} is missing: `compare.py build` makes it")
    return path


# -- reading -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One line of `llama-bench`; the lists have an entry for each sample."""

    prompt: int
    new: int
    depth: int
    seconds: list[float]
    tokens_per_s: list[float]


def parse_bench(text: str) -> list[Row]:
    """What `llama-bench -o json` printed."""
    begin = text.find("[\n")
    if begin < 0:
        raise RuntimeError(f"llama-bench printed no JSON: {text[-300:]}")
    return [
        Row(row["n_prompt"], row["n_gen"], row["n_depth"], [ns / 1e9 for ns in row["samples_ns"]], row["samples_ts"])
        for row in json.JSONDecoder().raw_decode(text, begin)[0]
    ]


def parse_media(text: str) -> list[float]:
    """Seconds of each encoding that `llama-mtmd-cli` reports, in order."""
    found = re.findall(r"(?:mtmd batch encoding done|slice encoded) in (\d+) ms", text)
    return [int(value) / 1e3 for value in found]


def parse_cache(text: str) -> int:
    """The sum of all buffers of keys and values, in bytes."""
    sizes = re.findall(r"KV buffer size\s*=\s*([\d.]+) MiB", text)
    if not sizes:
        raise RuntimeError("llama.cpp printed no size of its cache")
    return round(sum(map(float, sizes)) * (1 << 20))


def parse_load(text: str) -> float | None:
    """Seconds that llama.cpp says loading took."""
    found = re.search(r"load time\s*=\s*([\d.]+) ms", text)
    return float(found[1]) / 1e3 if found else None


@dataclass(frozen=True)
class Attention:
    """The faster setting of `-fa`, and the seconds of both."""

    flash: str
    seconds: dict[str, float]


def faster_attention(llama: LlamaCpp, model: Path, prompt: int, new: int) -> Attention:
    """The setting with which prompt and decoding together are faster."""
    taken = {}
    for flash in ("on", "off"):
        rows, _ = llama.bench(model, "-p", prompt, "-n", new, flash=flash, repeats=1)
        taken[flash] = sum(min(row.seconds) for row in rows)
    return Attention(min(taken, key=lambda flash: taken[flash]), taken)
