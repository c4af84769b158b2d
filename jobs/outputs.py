"""Open a data set's folder for the commands that look at what is published."""

from pipelines.dataset.manifest import RunManifest, read_manifest
from pipelines.storage import Storage, StorageOptions
from pipelines.storage_address import open_storage
from zimage_models.errors import InvalidRequest


def open_folder(output: str, s3_endpoint: str | None, s3_region: str | None) -> Storage:
    """Return the folder, published in or not.

    Raises:
        InvalidRequest: the address is malformed.
    """
    try:
        return open_storage(output, StorageOptions(s3_endpoint_url=s3_endpoint, s3_region=s3_region))
    except ValueError as error:
        raise InvalidRequest(f"output: {error}", field="output") from error


def open_output(output: str, s3_endpoint: str | None, s3_region: str | None) -> tuple[Storage, RunManifest]:
    """Return the folder and its newest manifest.

    Raises:
        InvalidRequest: nothing is published there.
    """
    storage = open_folder(output, s3_endpoint, s3_region)
    manifest = read_manifest(storage)
    if manifest is None:
        raise InvalidRequest(f"output: nothing is published in {output}", field="output")
    return storage, manifest
