"""The UUID of a new domain: always the same for the same plan, different for every life of a name."""

import uuid
from typing import Final

NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "urn:libvirt-autoscaler:domain:1")


def domain_uuid(group: str, host: str, name: str, boot_id: str, now_s: float) -> str:
    """Return the UUID of the domain ``name`` that is planned at ``now_s``.

    A define that was cut off is found again by its name, so it is adopted and never doubled; the time keeps a late
    message about an earlier domain of the same name from meaning this one.
    """
    return str(uuid.uuid5(NAMESPACE, f"{group}/{host}/{name}/{boot_id}/{now_s:.6f}"))
