"""The signature of a webhook, as the Standard Webhooks specification (standardwebhooks.com) defines it.

Receivers verify it with that project's libraries, or with ten lines of their own: see docs/notifications.md.
"""

import base64
import binascii
import hashlib
import hmac
from typing import Final

PREFIX: Final = "whsec_"
MIN_BYTES: Final = 16


def key_of(secret: str) -> bytes:
    """Return the key that a secret stands for: base64 after ``whsec_``, otherwise the text itself.

    Raises:
        ValueError: too short, or not base64.
    """
    text = secret.strip()
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True) if text.startswith(PREFIX) else text.encode()
    except binascii.Error as error:
        raise ValueError(f"after {PREFIX} must stand base64: {error}") from error
    if len(key) < MIN_BYTES:
        raise ValueError(f"must have at least {MIN_BYTES} bytes; got {len(key)}")
    return key


def headers(identifier: str, body: bytes, epoch_s: int, key: bytes | None) -> dict[str, str]:
    """Return the headers that identify and sign ``body``; without a key there is no signature.

    Args:
        identifier: of the notice, the same at every attempt.
        body: as it is sent.
        epoch_s: now; a receiver refuses what is too old, so that nobody repeats it.
        key: from ``key_of``.
    """
    found = {"webhook-id": identifier, "webhook-timestamp": str(epoch_s)}
    if key is not None:
        signed = f"{identifier}.{epoch_s}.".encode() + body
        digest = hmac.new(key, signed, hashlib.sha256).digest()
        found["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return found
