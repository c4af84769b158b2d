"""Stores images for ``response_format="url"`` in an S3 bucket, read through presigned URLs."""

import asyncio
import logging
import secrets
from datetime import UTC, datetime
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from deployments.app_args import ObjectStoreArgs
from deployments.errors import ObjectStoreFailed
from zimage_models.image_files.image_codec import Encoding

logger = logging.getLogger("ray.serve")


class ObjectStore:
    """Uploads images and signs their URLs; credentials come from the usual AWS chain."""

    def __init__(self, args: ObjectStoreArgs) -> None:
        address = urlsplit(args.address)
        self._bucket, self._prefix = address.netloc, address.path.strip("/")
        self._url_valid_s = args.url_valid_s
        self._client = boto3.client(
            "s3",
            endpoint_url=args.endpoint_url,
            region_name=args.region,
            config=Config(signature_version="s3v4", retries={"mode": "standard", "max_attempts": 5}),
        )

    async def keep(self, data: bytes, encoding: Encoding) -> str:
        """Do the same as :meth:`put`, outside the event loop."""
        return await asyncio.to_thread(self.put, data, encoding)

    def put(self, data: bytes, encoding: Encoding) -> str:
        """Upload one image under an unguessable name and return a URL that is valid for a limited time.

        Raises:
            ObjectStoreFailed: the store did not accept it.
        """
        day = datetime.now(UTC).strftime("%Y/%m/%d")
        name = f"{day}/{secrets.token_urlsafe(24)}{encoding.suffix}"
        key = f"{self._prefix}/{name}" if self._prefix else name
        try:
            self._client.put_object(Bucket=self._bucket, Key=key, Body=data, ContentType=encoding.mime_type)
        except (BotoCoreError, ClientError) as error:
            logger.exception("bucket %s did not accept an image", self._bucket)
            raise ObjectStoreFailed("the object store did not accept the image") from error
        url: str = self._client.generate_presigned_url(
            "get_object", Params={"Bucket": self._bucket, "Key": key}, ExpiresIn=self._url_valid_s
        )
        return url
