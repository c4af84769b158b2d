"""The README.md that makes a folder of parts a Hugging Face data set. It reads no storage."""

from dataclasses import dataclass
from typing import Any

import yaml


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSummary:
    """What a card tells about a data set."""

    title: str
    model: str
    weights_sha256: str
    num_images: int
    num_errors: int = 0
    """Planned images that are not in the data set."""
    num_bytes: int
    """Size of all parts."""
    data_files: tuple[str, ...]
    """The parts that are the data set now, relative to the card."""
    prompts_in_images: bool = True
    license: str = "other"
    """A license identifier of the hub."""


def dataset_card(summary: DatasetSummary) -> str:
    """Write the card: YAML front matter that the hub and `datasets` read, then text for people."""
    front_matter: dict[str, Any] = {
        "license": summary.license,
        "task_categories": ["text-to-image"],
        "tags": ["synthetic", "ai-generated", "z-image"],
        "size_categories": [_size_category(summary.num_images)],
    }
    if summary.data_files:
        # A list, not a pattern: a part that a late writer adds to the folder is not part of the data set.
        train = {"split": "train", "path": list(summary.data_files)}
        front_matter["configs"] = [{"config_name": "default", "data_files": [train]}]
    written = "the generation parameters, prompt included," if summary.prompts_in_images else "its settings"
    return f"""---
{yaml.safe_dump(front_matter, sort_keys=False, allow_unicode=True)}---

# {" ".join(summary.title.split())}

Images generated from a table of prompts with [Z-Image](https://github.com/Tongyi-MAI/Z-Image) by zimage-ray.

| | |
|---|---|
| Images | {summary.num_images:,} |
| Failed rows, not included | {summary.num_errors:,} |
| Size | {_size_text(summary.num_bytes)} in {len(summary.data_files):,} Parquet files |
| Model | `{summary.model}` |
| Weights (SHA-256) | `{summary.weights_sha256}` |

## Loading

```python
from datasets import load_dataset

images = load_dataset("path/to/this/folder", split="train")
images[0]["image"].show()
```

One row is one image: `image`, its `prompt`, `key` and `variant`, every setting that made it, and the columns
of the prompt table. `unit_id` names the image by all that decides it: the same prompt, settings, seed and
weights have the same `unit_id`. `image_sha256` is the hash of the image file.

## Marking

All images are synthetic. Each file says so in its XMP metadata, with IPTC `DigitalSourceType`
`trainedAlgorithmicMedia`, and holds {written} in the same place. Keep these metadata when you pass images on.
"""


def _size_category(num_images: int) -> str:
    # The hub's own vocabulary: n<1K, 1K<n<10K, ..., n>1T.
    names = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
    index = max(len(str(num_images)) - 3, 0)
    if index == 0:
        return f"n<{names[0]}"
    return f"{names[index - 1]}<n<{names[index]}" if index < len(names) else f"n>{names[-1]}"


def _size_text(num_bytes: int) -> str:
    size = float(num_bytes)
    for unit in ("bytes", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
