"""Which command has what runs take over the file as it is now."""

from typing import Final

from cli.shared_dirs import belong_to_units
from common import in_force
from common.config import Config
from common.config_file import load
from common.config_live import changes, refusal, renamed
from common.errors import ConfigError

RELOAD: Final = "autoscaler reload"
UP: Final = "make up"
UNITS: Final = "systemctl restart libvirt-autoscaler.target"


def way(config: Config) -> str:
    """Return the command: a reload where every service would take it over, as each of them decides it itself.

    A restart where it would not, or where nobody knows what is in force.
    """
    try:
        old, _ = load(in_force.place(config.system.run_path))
        if not (renamed(old, config) or refusal(changes(old, config))):
            return RELOAD
    except ConfigError:
        pass
    return UNITS if belong_to_units(config.system.run_path) else UP
