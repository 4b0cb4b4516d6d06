"""Only ``common.files`` writes, makes and gives away files; what does so elsewhere is listed here with its reason."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
TREES = ("common", "services", "cli", "load", "guest_image")
WRITING_FLAGS = {"O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND"}
METHODS = {
    *("write_text", "write_bytes", "touch", "mkdir", "makedirs", "mkfifo", "mknod", "chmod", "lchmod", "fchmod"),
    *("chown", "lchown", "fchown", "rename", "renames", "symlink", "symlink_to", "link", "hardlink_to", "truncate"),
    *("copy", "copy2", "copyfile", "copytree", "copymode", "copystat", "move", "mkstemp", "mkdtemp"),
}
NOT_FILES = {"copy": ("copy", "model_copy"), "link": ()}

ALLOWED = {
    "common/files.py": "it is the door",
    "services/actuator/guest/identity.py": "runs in a guest, alone",
    "services/actuator/cloning.py:fed": "a pipe, which is made new or not at all, in the actuator's own directory",
    "services/actuator/cloning.py:_publish": "libvirt wrote the saved memory, in the actuator's own directory",
    "services/actuator/cloning.py:_open_when_read": "the pipe",
    "services/actuator/snapshots.py:_end": "the pipe of a killed actuator",
    "services/recorder/segments.py:SegmentWriter.open": "a new file with O_EXCL, and appended to for hours",
    "cli/main.py:main": "/dev/null",
    "cli/doctor/gather_machine.py": "in a temporary directory of its own",
    "guest_image/packages.py:fetch": "in a temporary directory of its own",
}


def writes(tree: ast.Module) -> Iterator[tuple[str, int, str]]:
    """Yield function, line and what it does for each call that may write, make or give away a file."""

    def walk(node: ast.AST, inside: str) -> Iterator[tuple[str, int, str]]:
        for child in ast.iter_child_nodes(node):
            name = inside
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{inside}.{child.name}" if inside else child.name
            if isinstance(child, ast.Call) and (what := _what(child)):
                yield inside, child.lineno, what
            yield from walk(child, name)

    yield from walk(tree, "")


def _what(call: ast.Call) -> str:
    """Return how the call may write, empty if it does not."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    of = ast.unparse(function.value) if isinstance(function, ast.Attribute) else ""
    if of == "files" or (not of and name in METHODS):
        return ""
    if name in METHODS and not (name == "copy" and of != "shutil") and not (name == "link" and of != "os"):
        return f"{of}.{name}"
    if name == "replace" and (of == "os" or (of and len(call.args) == 1 and not call.keywords)):
        return f"{of}.replace"
    if name == "open" and of == "os":
        names = {node.attr for argument in call.args for node in ast.walk(argument) if isinstance(node, ast.Attribute)}
        return "os.open" if names & WRITING_FLAGS else ""
    if name in ("open", "NamedTemporaryFile") and of != "os":
        modes = [value.value for value in [*call.args, *(k.value for k in call.keywords)] if _is_mode(value)]
        return f"open({modes[0]!r})" if modes else ""
    return ""


def _is_mode(node: ast.expr) -> bool:
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return is_text and bool(set(node.value) & set("wax+")) and set(node.value) <= set("rwax+bt")


def found() -> dict[str, str]:
    """Return every place that writes, with the line and what it does."""
    places = {}
    for path in sorted(path for tree in TREES for path in (ROOT / tree).rglob("*.py")):
        file = str(path.relative_to(ROOT))
        for function, line, what in writes(ast.parse(path.read_text(encoding="utf-8"))):
            places[f"{file}:{function}"] = f"line {line}: {what}"
    return places


def test_nothing_writes_files_but_by_the_one_door() -> None:
    beside = {at: what for at, what in found().items() if at not in ALLOWED and at.partition(":")[0] not in ALLOWED}
    assert beside == {}, "write with common.files: it follows no planted link, and states the mode"


def test_every_exception_is_still_needed() -> None:
    places = found()
    assert [at for at in ALLOWED if at not in places and not any(one.startswith(f"{at}:") for one in places)] == []


@pytest.mark.parametrize(
    "text",
    [
        "path.open('w')",
        "path.open(mode='ab')",
        "open(path, 'r+')",
        "path.write_text('x')",
        "aside.replace(path)",
        "os.replace(a, b)",
        "os.open(path, os.O_WRONLY | os.O_CREAT)",
        "path.mkdir(parents=True)",
        "os.chown(path, 0, 0)",
        "path.chmod(0o644)",
        "path.touch()",
        "shutil.copyfile(a, b)",
    ],
)
def test_each_way_to_write_is_seen(text: str) -> None:
    assert [what for _, _, what in writes(ast.parse(text))] != []


@pytest.mark.parametrize("text", ["path.open('rb')", "text.replace('a', 'b')", "os.open(p, os.O_RDONLY)", "open(p)"])
def test_reading_is_not_taken_for_writing(text: str) -> None:
    assert list(writes(ast.parse(text))) == []
