import uuid

import pytest

from deployments.access.object_store import ObjectStore
from deployments.app_args import ObjectStoreArgs
from deployments.errors import ObjectStoreFailed
from deployments.http.openai_errors import api_error
from tests.s3_server import S3Server
from zimage_models.image_files.image_codec import Encoding


def test_image_that_can_not_be_stored_is_not_made_again(s3: S3Server) -> None:
    address = f"s3://missing-{uuid.uuid4().hex[:12]}"
    store = ObjectStore(ObjectStoreArgs(address=address, endpoint_url=s3.endpoint_url))
    with pytest.raises(ObjectStoreFailed, match="object store did not accept the image") as raised:
        store.put(b"image", Encoding(format="png"))
    answer = api_error(raised.value)
    assert (answer.status, answer.detail.code) == (500, "object_store_failed")
    assert answer.headers["x-should-retry"] == "false"
