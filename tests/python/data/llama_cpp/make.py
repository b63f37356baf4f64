"""Writes the GGUF files of this folder with llama.cpp's converter and splitter: from the root of the repository,

python tests/python/data/llama_cpp/make.py LLAMA_CPP BIN

LLAMA_CPP is a checkout (the files here: the one in the source package of llama-cpp-python 0.3.36), BIN the folder with
its `llama-gguf-split`. It needs the `test` extra.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from oracle.llama_cpp import CONVERTED, write_converted  # noqa: E402

llama_cpp, tools = Path(sys.argv[1]), Path(sys.argv[2])
environment = {**os.environ, "PYTHONPATH": str(llama_cpp / "gguf-py")}
with tempfile.TemporaryDirectory() as folder:
    for name in CONVERTED:
        directory = write_converted(Path(folder, name), name)
        for suffix, option in (("", []), ("-mmproj", ["--mmproj"])):
            out = HERE / f"{name}{suffix}.gguf"
            command = [sys.executable, llama_cpp / "convert_hf_to_gguf.py", directory, "--outtype", "bf16"]
            subprocess.run([*command, "--outfile", out, *option], check=True, env=environment)
whole = HERE / "26b-a4b.gguf"
subprocess.run([tools / "llama-gguf-split", "--split-max-tensors", "50", whole, HERE / "26b-a4b"], check=True)
whole.unlink()
