from __future__ import annotations

import pickle

import pytest

from embgeom_dask.errors import EmbgeomWarning, InputError, refuse_credentials
from embgeom_dask.redaction import redact

SECRETS = {
    "https://user:SECRET@host/x.zarr": "https://host/x.zarr",
    "https://SECRET@host/x.zarr": "https://host/x.zarr",
    "HTTPS://SECRET@host": "HTTPS://host",
    "s3://key:SECRET@bucket/x.zarr": "s3://bucket/x.zarr",
    "s3://key:SEC/RET@bucket/x.zarr": "s3://bucket/x.zarr",
    "https://user:SECRET@SECRET@host/x": "https://host/x",
    "https://user::SECRET@host/x": "https://host/x",
    "tls://u:1234567@host:8786": "tls://host:8786",
    "simplecache::https://SECRET@host/x.zarr": "simplecache::https://host/x.zarr",
    "zip://a.zarr::https://u:SECRET@host/a.zip?sig=SECRET": "zip://a.zarr::https://host/a.zip",
    "zip://a.zarr?SECRET::simplecache::s3://k:SECRET@b/a.zip": "zip://a.zarr::simplecache::s3://b/a.zip",
    "https://host/x;jsessionid=SECRET/y": "https://host/x",
    "https://host/x#access_token=SECRET": "https://host/x",
    "https://host/x?X-Amz-Signature=SECRET": "https://host/x",
    "file:///data/x.zarr?token=SECRET": "file:///data/x.zarr",
    "file://u:SECRET@host/x": "file://host/x",
}
PLAIN = [
    "stores/org--a.zarr",
    "what?",
    "a:b@c",
    "s3://bucket/model@main/x.zarr",
    "abfs://container@account.dfs.core.windows.net/x.zarr",
    "http://host:8080/a@b/x.zarr",
    "tcp://[::1]:8786",
    "tls://10.0.0.1:8786",
    "simplecache::s3://bucket/key:5@6/x.zarr",
    "zip://x.zarr::s3://bucket/a@b.zip",
]


@pytest.mark.parametrize("url", SECRETS)
def test_credentials_are_taken_out_of_a_url_and_refused_in_one(url):
    assert redact(url) == SECRETS[url]
    assert redact(f"cannot read '{url}': no such host") == f"cannot read '{SECRETS[url]}': no such host"
    assert redact(SECRETS[url]) == SECRETS[url]
    refuse_credentials(SECRETS[url])
    with pytest.raises(InputError, match="password") as caught:
        refuse_credentials(url)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("text", PLAIN)
def test_what_holds_no_credentials_stays_as_it_is(text):
    assert redact(text) == text
    refuse_credentials(text)


def test_a_sentence_with_urls_stays_as_it_is():
    said = "2 of 3 stores failed: s3://a/b.zarr: gone; s3://c/d.zarr: gone"
    assert redact(said) == said


def test_a_password_with_spaces_is_refused_and_not_shown():
    with pytest.raises(InputError) as caught:
        refuse_credentials("https://user:SEC RET@host/x.zarr")
    assert str(caught.value).startswith("https://host/x.zarr is given with a password")


def test_no_error_and_no_warning_holds_credentials():
    said = "cannot reach http://user:SECRET@mirror for org/name at /api?token=SECRET"
    assert str(InputError(said)) == "cannot reach http://mirror for org/name at /api"
    assert str(pickle.loads(pickle.dumps(InputError(said)))) == str(InputError(said))
    assert str(EmbgeomWarning(said)) == str(InputError(said))
