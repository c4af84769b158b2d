import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.dataset.manifest import (
    FORMAT_VERSION,
    RunManifest,
    commit_manifest,
    list_generations,
    manifest_path,
    read_manifest,
)
from pipelines.dataset.parts import PartFile
from pipelines.options import GenerateOptions
from pipelines.storage import Storage
from pipelines.storage_address import open_storage
from zimage_models.errors import InvalidRequest

PART = PartFile(path=f"data/part-{'ab' * 32}.parquet", num_rows=3, num_bytes=1000, sha256="ab" * 32)


@pytest.fixture
def output(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "out"))


def make_manifest(number: int = 1) -> RunManifest:
    return RunManifest(
        number=number,
        run_id="20260101T000000Z-abcd",
        created_at="2026-01-01T00:00:00+00:00",
        model="tiny-zimage-turbo",
        variant="turbo",
        weights_sha256="cd" * 32,
        options=GenerateOptions(input="预.csv", output="out", drop=("a",)).model_dump(mode="json"),
        source_fingerprint="ef" * 32,
        counts={"rows": 3, "published": 3, "failed": 0},
        speed={"generate_s": 1.5, "images_per_s": 2.0},
        versions={"ray": "2.60.0"},
        work_files=("_runs/a/work/00000.parquet",),
        parts=(PART,),
        error_parts=(replace(PART, path=f"errors/part-{'ab' * 32}.parquet"),),
    )


def test_nothing_is_published_at_first(output: Storage) -> None:
    assert read_manifest(output) is None


def test_a_manifest_reads_back_as_it_was(output: Storage) -> None:
    manifest = make_manifest()
    assert commit_manifest(output, manifest)
    assert read_manifest(output) == manifest
    assert manifest.path == "_manifests/000001.json"


def test_its_options_can_be_used_again(output: Storage) -> None:
    commit_manifest(output, make_manifest())
    manifest = read_manifest(output)
    assert manifest is not None
    assert GenerateOptions(**manifest.options) == GenerateOptions(input="预.csv", output="out", drop=("a",))


def test_the_highest_number_is_in_force(output: Storage) -> None:
    for number in (9, 1_000_000, 10, 999_999):
        assert commit_manifest(output, make_manifest(number))
    manifest = read_manifest(output)
    assert manifest is not None
    assert manifest.number == 1_000_000


def test_any_generation_is_read_by_its_number(output: Storage) -> None:
    for number in (1, 2, 3, 7):
        commit_manifest(output, make_manifest(number))
    assert read_manifest(output, 2) == make_manifest(2)
    assert list_generations(output) == [1, 2, 3, 7]
    with pytest.raises(InvalidRequest, match=r"generation: 4 is none of .*/out; it has 1 to 3, 7$"):
        read_manifest(output, 4)


def test_notes_are_kept_and_a_manifest_without_any_is_one_of_release_0_2(output: Storage) -> None:
    noted = replace(make_manifest(), notes=("colour: 7 is text.",))
    commit_manifest(output, noted)
    assert read_manifest(output) == noted
    commit_manifest(output, make_manifest(2))
    assert "notes" not in json.loads(output.read(manifest_path(2)))
    assert read_manifest(output) == make_manifest(2)


def test_a_number_is_given_once(output: Storage) -> None:
    first = make_manifest()
    assert commit_manifest(output, first)
    assert not commit_manifest(output, replace(first, run_id="other"))
    assert read_manifest(output) == first


def test_other_files_are_no_manifests(output: Storage) -> None:
    commit_manifest(output, make_manifest())
    for name in ("000002.json.tmp", "2.json", "notes.json", "old/000003.json", "000004.JSON"):
        output.write(f"_manifests/{name}", b"{}")
    manifest = read_manifest(output)
    assert manifest is not None
    assert manifest.number == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"format_version": 1}',
        b'{"format_version": 1, "parts": [{"path": "a"}], "error_parts": [], "work_files": []}',
        b'{"format_version": 1, "parts": [], "error_parts": [], "work_files": [], "colour": 1}',
    ],
)
def test_a_damaged_manifest_is_told(output: Storage, content: bytes) -> None:
    output.write(manifest_path(3), content)
    with pytest.raises(InvalidRequest, match=r"_manifests/000003\.json: not a manifest"):
        read_manifest(output)


def test_a_manifest_of_another_format_is_told(output: Storage) -> None:
    commit_manifest(output, make_manifest())
    content = json.loads(output.read(manifest_path(1))) | {"format_version": FORMAT_VERSION + 1}
    output.write(manifest_path(2), json.dumps(content).encode())
    with pytest.raises(InvalidRequest, match=rf"format_version {FORMAT_VERSION + 1}; this release reads"):
        read_manifest(output)
