"""Which word of the decider counts: the newest generation, and only one that makes sense."""

from common.messages import DesiredCapacity


def refuse(newest: DesiredCapacity | None, body: DesiredCapacity) -> str:
    """Return why ``body`` is not applied, empty if it is.

    An older generation is a late echo; a capacity outside its own bounds is a damaged plan.
    """
    if newest is not None and body.generation < newest.generation:
        return f"generation {body.generation} is older than {newest.generation}, which is in force"
    if not body.minimum <= body.desired <= body.maximum:
        return f"desired {body.desired} is outside its own bounds {body.minimum} to {body.maximum}"
    return ""
