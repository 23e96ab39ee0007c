"""pyproject.toml, uv.lock and the requirements files say the same, on every system."""

import functools
import json
import tomllib

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from engine.common import ROOT

FILES = {"requirements.txt": None}
FILES |= {f"requirements-{g}.txt": g for g in ("notebook", "play", "grading", "dev")}
# What the CUDA build of torch asks for, and a CPU build does without.
CUDA = ("cuda-", "nvidia-", "triton")
LINUX = {"sys_platform": "linux", "os_name": "posix", "platform_machine": "x86_64"}
SYSTEMS = {
    "Linux 3.11.2": {**LINUX, "python_full_version": "3.11.2"},
    "Linux 3.13.5": {**LINUX, "python_full_version": "3.13.5"},
    "macOS 3.12.4": {
        **{"sys_platform": "darwin", "os_name": "posix", "platform_machine": "arm64"},
        "python_full_version": "3.12.4",
    },
    "Windows 3.14.0": {
        **{"sys_platform": "win32", "os_name": "nt", "platform_machine": "AMD64"},
        "python_full_version": "3.14.0",
    },
}


@functools.cache
def read_toml(name):
    return tomllib.loads((ROOT / name).read_text(encoding="utf-8"))


def holds(marker, system):
    version = system["python_full_version"].rpartition(".")[0]
    given = {**system, "python_version": version, "implementation_name": "cpython"}
    return not marker or Marker(marker).evaluate({**given, "extra": ""})


def asked_for(group):
    """Requirements that pyproject.toml states for a group, those of every student included."""
    project = read_toml("pyproject.toml")
    groups, waiting = project["dependency-groups"], [group] if group else []
    stated = list(project["project"]["dependencies"])
    while waiting:
        for each in groups[waiting.pop()]:
            if isinstance(each, dict):
                waiting.append(each["include-group"])
            else:
                stated.append(each)
    return list(map(Requirement, stated))


def locked(group, system):
    """{name: version} of all that uv.lock installs on a system, but for what CUDA needs."""
    packages = read_toml("uv.lock")["package"]
    waiting = [
        {"name": canonicalize_name(each.name), "extra": each.extras} for each in asked_for(group)
    ]
    found, seen = {}, set()
    while waiting:
        link = waiting.pop()
        key = (link["name"], frozenset(link.get("extra", ())))
        if link["name"].startswith(CUDA) or not holds(link.get("marker"), system) or key in seen:
            continue
        seen.add(key)
        (package,) = (
            each
            for each in packages
            if each["name"] == link["name"]
            and link.get("version", each["version"]) == each["version"]
        )
        found[link["name"]] = package["version"]
        waiting += package.get("dependencies", [])
        for extra in link.get("extra", ()):
            waiting += package.get("optional-dependencies", {}).get(extra, [])
    return found


def listed(name):
    """The requirements in a file."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


@pytest.fixture(params=FILES)
def file(request):
    if not (ROOT / request.param).exists():
        pytest.skip("a student's copy")
    return request.param


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_requirements_file_lists_what_is_locked(file, system):
    here = SYSTEMS[system]
    versions = {each.name: each for each in listed(file) if holds(str(each.marker or ""), here)}
    assert {name: str(each.specifier) for name, each in versions.items()} == {
        name: f"=={version}" for name, version in locked(FILES[file], here).items()
    }


def test_what_is_locked_is_what_the_project_states(file):
    """In exact versions, of which the lock has no other."""
    have = {(each["name"], each.get("version")) for each in read_toml("uv.lock")["package"]}
    for stated in asked_for(FILES[file]):
        (version,) = stated.specifier
        assert version.operator == "==" and not stated.marker
        assert (canonicalize_name(stated.name), version.version) in have


def test_the_lock_is_for_everybody():
    """Its files come from PyPI, and their hashes are known."""
    lock = read_toml("uv.lock")
    assert lock["requires-python"] == read_toml("pyproject.toml")["project"]["requires-python"]
    for package in lock["package"]:
        if package["source"] == {"virtual": "."}:
            continue
        assert package["source"] == {"registry": "https://pypi.org/simple"}, package["name"]
        for file in package.get("wheels", []):
            assert file["url"].startswith("https://files.pythonhosted.org/")
            assert file["hash"].startswith("sha256:")


@pytest.mark.skipif(not (ROOT / "CITATION.cff").exists(), reason="a student's copy")
def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = read_toml("pyproject.toml")["project"]
    assert [citation[key] for key in ("version", "license")] == [
        project[key] for key in ("version", "license")
    ]


def test_a_container_installs_as_the_readme_says():
    text = (ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8")
    command = json.loads(text)["postCreateCommand"]
    assert f"&& {command} &&" in (ROOT / "README.md").read_text(encoding="utf-8")
