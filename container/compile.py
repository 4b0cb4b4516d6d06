"""Import all that the services import, once: the image then holds the byte code of that, and of nothing else.

The root file system of a container is read-only, so what is not compiled here would be compiled at every start.
"""

import importlib

from common.services import ALL_SERVICES

MODULES = (
    "cli.main",
    "cli.healthcheck",
    "cli.shared_dirs",
    "services.balancer.ending",
    "services.plotter.render",
    "services.plotter.window",
)

for name in (*(f"services.{service}.shell" for service in ALL_SERVICES), *MODULES):
    importlib.import_module(name)
for backend in ("agg", "svg", "tkagg"):
    importlib.import_module(f"matplotlib.backends.backend_{backend}")
