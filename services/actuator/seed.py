"""The volume that carries a seed: ISO 9660 with the label that cloud-init looks for.

pycdlib stamps it with the present time; cloud-init reads only label and files.
"""

import io
from collections.abc import Mapping

import pycdlib

from services.actuator.core.seed import LABEL


def seed_volume(files: Mapping[str, bytes], size_bytes: int = 0, last_block: bytes = b"") -> bytes:
    """Return an ISO 9660 volume of these files, with their names in Rock Ridge and in Joliet.

    Args:
        files: By name.
        size_bytes: Its whole size, if it is to have a certain one; it then ends with ``last_block``.
    """
    volume = pycdlib.PyCdlib()
    volume.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=LABEL)
    for number, (name, content) in enumerate(sorted(files.items())):
        plain = f"/FILE{number}.;1"
        volume.add_fp(io.BytesIO(content), len(content), plain, rr_name=name, joliet_path=f"/{name}")
    written = io.BytesIO()
    volume.write_fp(written)
    volume.close()
    content = written.getvalue()
    if not size_bytes:
        return content
    if len(content) + len(last_block) > size_bytes:
        raise ValueError(f"a seed of {len(content)} + {len(last_block)} bytes does not fit into {size_bytes}")
    return content.ljust(size_bytes - len(last_block), b"\0") + last_block
