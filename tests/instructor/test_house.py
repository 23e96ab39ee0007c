"""The shape of the repository: imports point one way, and TRL's trainer is changed in one file."""

import ast

import pytest

from engine.common import ROOT

SKIPPED = {".venv", "outputs", "wandb"}
FILES = [
    path
    for path in sorted(ROOT.rglob("*.py"))
    if not SKIPPED & set(path.relative_to(ROOT).parts)
    and not any(part.startswith((".", "outputs")) for part in path.relative_to(ROOT).parts)
]
PROGRAMS = {path.stem for path in ROOT.glob("*.py")} | {"engine"}
HERE = PROGRAMS | {"benchmarks", "cases", "instructor", "tests", "tiny"}
# What the files of a place may import of this repository. Root modules may import the engine and
# each other; cases, the builders of the bundled models and the benchmarks all of that; nothing
# imports the instructor's tools.
ALLOWED = {
    "engine": {"engine"},
    "cases": PROGRAMS | {"cases"},
    "tiny": PROGRAMS | {"tiny"},
    "benchmarks": PROGRAMS | {"benchmarks"},
    "instructor": PROGRAMS | {"cases", "instructor"},
}
ALONE = ROOT / "benchmarks" / "padding.py"  # to be pasted elsewhere; what it prints is ASCII
# The rooms of engine/: each may use those before it.
ROOMS = ["common", "options", "model", "course", "measuring", "pages", "training"]


def place_of(path):
    parts = path.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else "."


def imports_of(path):
    """Names of the modules of this repository that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if name.split(".")[0] in HERE}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_one_way(path):
    place = place_of(path)
    if place == "tests":
        return
    allowed = ALLOWED.get(place, PROGRAMS)
    assert {name.split(".")[0] for name in imports_of(path)} <= allowed
    if place == "engine" and path.name != "__init__.py":
        room = path.relative_to(ROOT / "engine").parts[0].removesuffix(".py")
        used = {name.split(".")[1] for name in imports_of(path) if "." in name}
        assert used <= {*ROOMS[: ROOMS.index(room) + 1]}


def test_no_import_runs_in_a_circle():
    """Imports inside functions count too."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in FILES
        if place_of(path) != "tests"
    }
    graph = {
        name: {other for other in imports_of(path) if other in modules and other != name}
        for name, path in modules.items()
    }
    while free := {name for name, others in graph.items() if not others}:
        graph = {name: others - free for name, others in graph.items() if name not in free}
    assert graph == {}


def set_on_a_trainer(source):
    """The lines that set an attribute of something called a trainer."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        for target in targets if isinstance(node, (ast.Assign, ast.AugAssign)) else []:
            while isinstance(target, ast.Attribute):
                target = target.value
                if "trainer" in ast.unparse(target).split(".")[-1].lower():
                    lines.append(node.lineno)
    return lines


def test_nothing_is_set_on_trls_trainer_from_outside():
    for path in FILES:
        if place_of(path) != "tests":
            assert set_on_a_trainer(path.read_text(encoding="utf-8")) == [], path
            trl = {"trl", "trl.trainer", "trl.models"} & trl_imports(path)
            assert not trl or path.name in ("trainer.py", "stock.py", ALONE.name), path
    assert set_on_a_trainer("trainer.args.seed = 3\nself.trainer = trainer") == [1]


def trl_imports(path):
    """The packages of TRL that a file imports from."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    modules = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {".".join(name.split(".")[:2]) for name in modules if name.split(".")[0] == "trl"}


def reached_from(path, modules):
    """The modules of this repository that a file imports, directly or not."""
    reached, left = set(), [path]
    while left:
        new = (imports_of(left.pop()) & modules.keys()) - reached
        reached |= new
        left += [modules[name] for name in new]
    return reached


def test_every_program_prepares_its_console():
    """engine.common says what is shown in the place of characters that a stream does not know."""
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES}
    programs = [
        path
        for path in FILES
        if place_of(path) != "tests" and '__name__ == "__main__"' in path.read_text("utf-8")
    ]
    assert len(programs) > 15
    for path in set(programs) - {ALONE}:
        assert "engine.common" in reached_from(path, modules), path


def without_encoding(source):
    """The lines that read or write text in the encoding of the locale."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or any(k.arg == "encoding" for k in node.keywords):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        binary = any(isinstance(a, ast.Constant) and "b" in str(a.value) for a in node.args[1:])
        if (
            (name == "read_text" and not node.args)
            or (name == "write_text" and len(node.args) < 2)
            or (isinstance(node.func, ast.Name) and name == "open" and not binary)
        ):
            lines.append(node.lineno)
    return lines


def test_files_are_utf_8_whatever_the_locale():
    for path in FILES:
        if place_of(path) != "tests" and path.name != "probing.py":  # where open() must fail
            assert without_encoding(path.read_text(encoding="utf-8")) == [], path
    some = "open(p)\nopen(p, 'rb')\np.read_text()\np.read_text('utf-8')\np.write_text(x)"
    assert without_encoding(some) == [1, 3, 5]


def test_the_checks_above_see_something():
    names = {path.relative_to(ROOT).as_posix() for path in FILES}
    assert {"train.py", "engine/common.py"} <= names and len(names) > 40
    assert "engine.common" in imports_of(ROOT / "data.py")
    assert "trl.trainer" in trl_imports(ROOT / "engine" / "training" / "trainer.py")
