from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import s3
from tests.proxy import Proxy


@pytest.fixture(scope="session")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """The way to an S3 server, one for all tests, also where others run in between: s3fs keeps its connections."""
    with s3.server(tmp_path_factory.mktemp("s3")) as endpoint, pytest.MonkeyPatch.context() as patch:
        proxy = Proxy(endpoint)
        for name, value in {**s3.CREDENTIALS, "AWS_ENDPOINT_URL": proxy.address}.items():
            patch.setenv(name, value)
        yield proxy


@pytest.fixture
def endpoint(proxy: Proxy) -> str:
    return proxy.address


@pytest.fixture
def bucket(endpoint: str, request: pytest.FixtureRequest) -> str:
    import s3fs  # not where a newer Python tests what needs no bucket

    name = f"b{abs(hash(request.node.nodeid)):x}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}"
