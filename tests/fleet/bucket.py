"""A folder of the bucket, for whoever reads paths."""

from __future__ import annotations

from dataclasses import dataclass

import boto3
from botocore.config import Config

from tests.fleet.backing import Backing
from tests.object_store import BUCKET


@dataclass(frozen=True, slots=True)
class BucketFolder:
    """Or a file in it, which reads as empty where there is none. Read on the store's own host."""

    backing: Backing
    key: str

    def __truediv__(self, name: str, /) -> BucketFolder:
        return BucketFolder(self.backing, f"{self.key}/{name}")

    def exists(self) -> bool:
        return True

    def read_bytes(self) -> bytes:
        with self.backing.s3.inside():
            client = boto3.client("s3", config=Config(proxies={}), **self.backing.s3_arguments)
            try:
                return client.get_object(Bucket=BUCKET, Key=self.key)["Body"].read()
            except client.exceptions.NoSuchKey:
                return b""
