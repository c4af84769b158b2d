"""The bare pipeline that `benchmarks.scale` compares with: plain Ray Data making the same tiles and bytes.

`python -m benchmarks.bare_pipeline WORK OUTPUT BLOCK_ROWS NUM_CPUS`; its speed follows from the files' times.
"""

import os
import sys
from typing import Any, cast

import pyarrow as pa
import ray
import ray.data

from zimage_models.engine.fake_engine import draw_tile
from zimage_models.image_files.image_codec import Encoding, encode_image

_PARAMETERS = (
    *("prompt", "negative_prompt", "width", "height", "num_inference_steps", "guidance_scale", "seed"),
    "unit_id",
)


def make_tiles(table: pa.Table) -> pa.Table:
    """Draw and encode one tile per row."""
    images = []
    for row in table.to_pylist():
        parameters = {name: row[name] for name in _PARAMETERS}
        parameters |= {"model": "tiny-zimage-turbo", "weights_sha256": "fake"}
        pixels_HWC = draw_tile(row["prompt"], row["seed"], row["height"], row["width"])
        data = encode_image(pixels_HWC, Encoding(), parameters=parameters)
        images.append({"bytes": data, "path": row["file_name"]})
    return table.append_column("image", pa.array(images))


def main() -> None:
    """Read, map and write."""
    work, output = sys.argv[1:3]
    block_rows, num_cpus = map(int, sys.argv[3:])
    # As the job does: warm workers stay.
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "600000")
    ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = ray.data.read_parquet(work)
    # The first blocks only warm up all workers.
    for part, folder in ((rows.limit(16 * block_rows), f"{output}-warm-up"), (rows, output)):
        blocks = part.repartition(target_num_rows_per_block=block_rows)
        # Ray's type for a batch covers all its formats; this function takes only the requested one.
        make = cast(Any, make_tiles)
        blocks.map_batches(make, batch_size=block_rows, batch_format="pyarrow").write_parquet(folder)


if __name__ == "__main__":
    main()
