"""A description beside each picture of parquet files, as Hugging Face's datasets store them: bytes and a path.

pip install 'gemma4[ray]'
python examples/ray_parquet.py pictures.parquet described --column image
"""

import argparse

import gemma4
import ray


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", help="a parquet file, or a folder of them")
    parser.add_argument("output", help="a folder for parquet files")
    parser.add_argument("--column", default="image", help="with the pictures")
    parser.add_argument("--model", default="demo", help="as in gemma4.Model.from_pretrained")
    parser.add_argument("--actors", type=int, default=1, help="as many as there are machines")
    parser.add_argument("--cpus", type=int, default=1, help="of each: one fewer than a machine has, which reads files")
    asked = parser.parse_args(arguments)

    described = ray.data.read_parquet(asked.input).map_batches(
        gemma4.ray.Generator,
        fn_constructor_kwargs={"model": asked.model, "task": "caption", "image": asked.column, "on_error": "return"},
        batch_size=16,
        compute=ray.data.ActorPoolStrategy(size=asked.actors),
        num_cpus=asked.cpus,
    )
    described.write_parquet(asked.output)


if __name__ == "__main__":
    main()
