"""Addresses of databases, as pages, logs and errors may show them."""

import re

_PASSWORD = re.compile(r"(?<=://)([^:@/\s]*):[^/\s]*@")
_WORD = re.compile(r"(?<=[?&]password=)[^&\s]*")


def without_password(text: str) -> str:
    """The same text; what stands between a user and a host, or is called a password, is left out."""
    return _WORD.sub("…", _PASSWORD.sub(r"\1@", text))
