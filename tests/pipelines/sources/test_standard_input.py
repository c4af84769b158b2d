import io
from pathlib import Path

import pytest

from pipelines.sources.standard_input import store_standard_input
from pipelines.storage_address import open_storage
from zimage_models.errors import InvalidRequest


def test_the_same_lines_are_stored_once(tmp_path: Path) -> None:
    content = b'{"prompt": "a cup"}\n'
    addresses = {store_standard_input(io.BytesIO(content), open_storage(str(tmp_path))) for _ in range(2)}
    [address] = addresses
    assert Path(address).read_bytes() == content
    assert Path(address).parent == tmp_path / "_inputs"
    assert store_standard_input(io.BytesIO(b"{}\n"), open_storage(str(tmp_path))) not in addresses


def test_an_empty_standard_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="standard input is empty"):
        store_standard_input(io.BytesIO(b"\n \n"), open_storage(str(tmp_path)))
    assert list(tmp_path.iterdir()) == []
