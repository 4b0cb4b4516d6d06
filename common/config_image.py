"""``[groups.NAME.image]``: what a template domain boots."""

import re
from typing import Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from common.config_table import Table

SSH_KEY: Final = re.compile(r"[a-z0-9@.-]+ [A-Za-z0-9+/=]+( [^\x00-\x1f\x7f]*)?")


class Image(Table):
    """What a template domain boots and how much it may use.

    ``directory`` holds a kernel and an initramfs; ``disk`` is a qcow2 or raw image with a boot loader, at the same path
    on every host of the group. With ``disk`` each domain has a copy-on-write overlay of ``disk_gib`` (never smaller
    than the image), and a seed for cloud-init from ``user_data`` (a file) and ``ssh_keys``. ``xml`` is a file that is
    merged into the domain's definition. ``cpu_quota`` is the share of one CPU that each vCPU may use: the allotment is
    ``vcpus * cpu_quota``.
    """

    directory: str = ""
    disk: str = ""
    disk_gib: float | None = Field(default=None, gt=0, le=64 * 1024)
    user_data: str = ""
    ssh_keys: tuple[str, ...] = Field(default=(), strict=False, max_length=100)
    xml: str = ""
    machine: Literal["pc", "q35"] = "pc"
    vcpus: int = Field(default=1, ge=1, le=64)
    memory_mib: int = Field(default=128, ge=32, le=1024 * 1024)
    cpu_quota: float = Field(default=1.0, ge=0.01, le=1)

    @field_validator("disk", "user_data", "xml")
    @classmethod
    def _is_an_absolute_path(cls, path: str) -> str:
        if path and not path.startswith("/"):
            raise ValueError("must be an absolute path")
        if path.endswith("/") or not path.isprintable():
            raise ValueError("must be the printable path of a file")
        return path

    @field_validator("directory")
    @classmethod
    def _is_an_absolute_directory(cls, path: str) -> str:
        if path and not path.startswith("/"):
            raise ValueError("must be an absolute path")
        if not path.isprintable():
            raise ValueError("must be printable")
        return path

    @field_validator("ssh_keys")
    @classmethod
    def _are_public_keys(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        for key in keys:
            if not SSH_KEY.fullmatch(key):
                raise ValueError(
                    f"must be lines of an authorized_keys file, such as 'ssh-ed25519 AAAA… me'; got {key!r}"
                )
        return keys

    @model_validator(mode="after")
    def _disk_or_directory(self) -> Self:
        if self.disk and self.directory:
            raise ValueError(f"disk and directory exclude each other; got {self.disk!r} and {self.directory!r}")
        needy = [name for name in ("disk_gib", "user_data", "ssh_keys") if getattr(self, name)]
        if needy and not self.disk:
            raise ValueError(f"{', '.join(needy)}: only with disk, the image that they are for; got none")
        return self
