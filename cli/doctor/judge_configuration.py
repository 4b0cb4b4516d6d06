"""What the doctor says of the configuration file itself."""

from cli.doctor.finding import Finding, error


def judge_configuration(fault: str) -> list[Finding]:
    """Return what is wrong with the file, where the configuration in force is examined in its place."""
    if not fault:
        return []
    return [
        error(
            "configuration",
            "",
            f"{fault}; what is in force was examined instead",
            "what runs goes on, and can be stopped; nothing else can be started, and nothing reloaded",
            "repair it: autoscaler config check",
        )
    ]
