"""Colours: dark on light, told apart by colour-blind eyes, the same domain always the same."""

from typing import Final

PAPER: Final = "#ffffff"
INK: Final = "#1f2933"
QUIET: Final = "#6b7785"
GRID: Final = "#e6eaee"
WINDOW: Final = "#fff4d9"
WINDOW_INK: Final = "#946200"
DESIRED: Final = "#1f2933"
READY: Final = "#b9d5ea"
READY_INK: Final = "#4d86ad"
MEAN_BELOW: Final = "#c3cbd3"
LEVEL: Final = "#b0413e"
BREAK: Final = "#c9d1d9"

# Okabe and Ito's set, its yellow darkened for a white ground, and two of Paul Tol's muted set.
DOMAINS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#b89b00", "#882255", "#332288")
DASHES: Final = ("-", (0, (5, 1.6)), (0, (1.4, 1.2)))

MARKS: Final = {
    "out": ("^", "#007a59", "scale-out"),
    "in": ("v", "#0072b2", "scale-in"),
    "failure": ("X", "#c1121f", "failure"),
    "trouble": ("s", "#b86e00", "trouble"),
    "operator": ("D", "#6b7785", "operator"),
}


def domain_style(index: int) -> tuple[str, object]:
    """Return the colour and the dashes of the domain with this number.

    >>> domain_style(0)[0] == domain_style(8)[0], domain_style(0)[1] == domain_style(8)[1]
    (True, False)
    """
    return DOMAINS[index % len(DOMAINS)], DASHES[index // len(DOMAINS) % len(DASHES)]
