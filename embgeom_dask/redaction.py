"""Remove credentials from URLs in all that is printed or stored, and refuse URLs that have them."""

from __future__ import annotations

import re

_CHAIN = re.compile(r"::(?=[a-z][a-z0-9+.-]*(?:://|::|$))", re.IGNORECASE)  # between the parts of fsspec's chained URLs
# what follows the colon of a host is a port; a URL that was made a path has one slash
_PASSWORD = re.compile(r"(:/{1,2})[^/\s@]*:(?!\d+(?:[/\s]|$))\S*@")
_USER = re.compile(r"(https?:/{1,2})[^/\s]*@", re.IGNORECASE)  # a token; elsewhere it may name a container
_EXTRA = re.compile(r"(://[^\s'\"?;#]*)[?;#][^\s'\"]+")
_QUERY = re.compile(r"\?[^\s'\"?=]+=[^\s'\"]*")


def redact(text: str) -> str:
    """Return `text` without what URLs in it may hold of credentials: user, password, parameters, query and fragment.

    Each part of a chained URL (`simplecache::https://...`) is looked at.
    """
    return "::".join(_without(part) for part in _CHAIN.split(text))


def _without(text: str) -> str:
    for pattern in (_PASSWORD, _USER, _EXTRA):
        text = pattern.sub(r"\1", text)
    return _QUERY.sub("", text)


def is_secretive(url: str) -> bool:
    """Whether `url` is a URL out of which `redact` would take something; it may hold spaces."""
    whole = re.sub(r"\s", "_", url)
    return "://" in url and redact(whole) != whole
