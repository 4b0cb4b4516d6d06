"""Fetches the guest's packages through the machine's own apt sources.

Only the distribution's own suites are used: a third party's source needs keys and tells nothing about a
kernel. No mirror is named here.
"""

import gzip
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from guest_image.errors import BuildError

_KERNELS = {"debian": "linux-image-cloud-amd64", "ubuntu": "linux-image-virtual"}
_ONE_LINE = re.compile(r"deb\s+(?P<options>\[[^\]]*\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>.*)")


@dataclass(frozen=True)
class Distribution:
    """What this machine runs, and so what the guest runs."""

    name: str
    suite: str

    @property
    def packages(self) -> tuple[str, ...]:
        """Return the packages of the image: a kernel for virtual machines, and busybox for DHCP."""
        return (_KERNELS[self.name], "busybox-static")


def distribution(os_release: str) -> Distribution:
    """Return the distribution that the text of ``/etc/os-release`` names.

    >>> distribution('ID=ubuntu\\nVERSION_CODENAME="noble"\\n')
    Distribution(name='ubuntu', suite='noble')
    """
    fields = dict(line.split("=", 1) for line in os_release.splitlines() if "=" in line)
    name = fields.get("ID", "").strip('"')
    suite = fields.get("VERSION_CODENAME", "").strip('"')
    if name not in _KERNELS or not suite:
        raise BuildError(f"the image is built on {' or '.join(sorted(_KERNELS))} only; this machine says ID={name!r}")
    return Distribution(name, suite)


def own_sources(files: dict[str, str], suite: str) -> list[tuple[str, str]]:
    """Return (extension, text) of apt sources that hold only the distribution's own suites.

    Args:
        files: Name → text of ``sources.list`` and of the files in ``sources.list.d``.
        suite: Its name, such as ``bookworm``; ``bookworm-security`` and the like belong to it.

    Returns:
        ``("list", text)`` for the one-line form, ``("sources", text)`` for the stanza form; empty texts are left out.
    """
    found = []
    for name, text in sorted(files.items()):
        if name.endswith(".list"):
            found.append(("list", _own_lines(text, suite)))
        elif name.endswith(".sources"):
            found.append(("sources", _own_stanzas(text, suite)))
    return [(extension, text) for extension, text in found if text]


def _is_own(name: str, suite: str) -> bool:
    return name.rstrip("/") == suite or name.startswith((f"{suite}-", f"{suite}/"))


def _own_lines(text: str, suite: str) -> str:
    matches = (_ONE_LINE.fullmatch(line.split("#")[0].strip()) for line in text.splitlines())
    return "".join(f"{match[0]}\n" for match in matches if match and _is_own(match["suite"], suite))


def _own_stanzas(text: str, suite: str) -> str:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    stanzas = re.split(r"\n(?:[ \t]*\n)+", "\n".join(lines).strip("\n"))
    kept = (_own_stanza(stanza, suite) for stanza in stanzas)
    return "\n".join(stanza for stanza in kept if stanza)


def _own_stanza(stanza: str, suite: str) -> str:
    fields = dict(re.findall(r"^([A-Za-z-]+):((?:.*)(?:\n[ \t].*)*)", stanza, re.MULTILINE))
    fields = {name.lower(): value.strip() for name, value in fields.items()}
    suites = [name for name in fields.get("suites", "").split() if _is_own(name, suite)]
    if not suites or "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
        return ""
    fields |= {"types": "deb", "suites": " ".join(suites)}
    return "".join(f"{name.title()}: {value}\n" for name, value in fields.items())


def read_sources(etc_apt: Path) -> dict[str, str]:
    """Return name → text of every apt source of this machine."""
    paths = [etc_apt / "sources.list", *(etc_apt / "sources.list.d").glob("*")]
    return {path.name: path.read_text(encoding="utf-8") for path in paths if path.is_file()}


def fetch(target: Path, wanted: Distribution, sources: list[tuple[str, str]], epoch_s: int) -> None:
    """Download and unpack the packages and what they depend on below ``target``; nothing is configured or run.

    Raises:
        BuildError: mmdebstrap failed; the message ends with its last lines.
    """
    if not sources:
        raise BuildError(f"no apt source of this machine serves {wanted.suite}; see /etc/apt/sources.list.d")
    files = []
    for number, (extension, text) in enumerate(sources):
        files.append(target.with_name(f"apt-{number}.{extension}"))
        files[-1].write_text(text, encoding="utf-8")
    command = ["mmdebstrap", "--quiet", "--variant=extract", f"--include={','.join(wanted.packages)}"]
    command += [f"--aptopt={option}" for option in _proxy_options()]
    command += [wanted.suite, str(target), *map(str, files)]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SOURCE_DATE_EPOCH": str(epoch_s), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError("mmdebstrap failed:\n" + "\n".join(done.stderr.strip().splitlines()[-8:]))


def _proxy_options() -> list[str]:
    """Return the machine's apt proxy settings, which mmdebstrap does not take over by itself."""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
    return [line for line in dump.splitlines() if re.match(r'Acquire::\w+::Proxy(::\S+)? ".+";', line)]


def versions(root: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Return package → version, from the changelogs below ``root``; packages without one are left out."""
    found = {}
    for name in names:
        changelogs = sorted((root / "usr/share/doc" / name).glob("changelog*.gz"))
        if changelogs:
            first_line = gzip.decompress(changelogs[0].read_bytes()).decode("utf-8", "replace").partition("\n")[0]
            found[name] = first_line.partition("(")[2].partition(")")[0]
    return found
