"""Objects in all pictures of a folder, by as many machines as a Ray cluster has; one parquet row for each picture.

    pip install 'gemma4[ray]'
    python examples/ray_folder.py photos found --labels "yellow star" "blue circle"

A picture that cannot be read is a row with its error. If an actor dies, Ray starts another one and gives it the batch
again.
"""

import argparse

import gemma4
import ray


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="pictures")
    parser.add_argument("output", help="a folder for parquet files")
    parser.add_argument("--labels", nargs="+", help="what to look for; without it, everything")
    parser.add_argument("--model", default="demo", help="as in gemma4.Model.from_pretrained")
    parser.add_argument("--actors", type=int, default=1, help="as many as there are machines")
    parser.add_argument("--cpus", type=int, default=1, help="of each: one fewer than a machine has, which reads files")
    asked = parser.parse_args(arguments)

    pictures = ray.data.read_binary_files(asked.folder, include_paths=True)
    found = pictures.map_batches(
        gemma4.ray.Generator,
        fn_constructor_kwargs={"model": asked.model, "task": "detect", "labels": asked.labels, "on_error": "return"},
        batch_size=16,
        compute=ray.data.ActorPoolStrategy(size=asked.actors),
        num_cpus=asked.cpus,
    )
    found.drop_columns(["bytes"]).write_parquet(asked.output)


if __name__ == "__main__":
    main()
