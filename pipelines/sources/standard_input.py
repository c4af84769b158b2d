"""A table on standard input. It is stored first: planning reads a table twice, and ``retry`` once more."""

import hashlib
from typing import BinaryIO

from pipelines.storage import Storage
from zimage_models.errors import InvalidRequest

STANDARD_INPUT = "-"
INPUTS_FOLDER = "_inputs"
MAX_BYTES = 4 * 2**30
"""An object of S3 is written with one request of at most 5 GB."""


def store_standard_input(stream: BinaryIO, output: Storage) -> str:
    """Store a table of JSON Lines under ``_inputs/``, named by its content; return its address.

    Raises:
        InvalidRequest: it is empty, or larger than 4 GiB.
    """
    content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise InvalidRequest(
            f"input: standard input is larger than {MAX_BYTES} bytes; write it to a file", field="input"
        )
    if not content or content.isspace():
        raise InvalidRequest("input: standard input is empty", field="input")
    path = f"{INPUTS_FOLDER}/{hashlib.sha256(content).hexdigest()[:32]}.jsonl"
    output.write(path, content)
    return f"{output.uri}/{path}"
