"""``python -m cli``: the same as the command ``autoscaler``."""

from cli.main import main

raise SystemExit(main())
