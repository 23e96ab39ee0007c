import re
from pathlib import Path

from train import FIELDS, PRESETS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_option_table_is_that_of_the_program():
    for name, field in FIELDS.items():
        default = "" if field.default is None else f"`{field.default}`"
        choices = field.metadata["choices"]
        values = f": {', '.join(choices)}" if choices else ""
        assert f"| `--{name}` | {default} | {field.metadata['help']}{values} |" in README


def test_every_flag_the_readme_names_exists():
    own = {"student", "index-url", "config_file", "model"}  # of other programs
    files = (ROOT / "evaluate.py", ROOT / "benchmarks" / "speed.py")
    texts = (file.read_text(encoding="utf-8") for file in files)
    others = {flag for text in texts for flag in re.findall(r'"--(\w+)"', text)}
    named = set(re.findall(r"--([a-z_-]+)", README)) - {"-"}
    assert named <= set(FIELDS) | own | others


def test_every_file_in_the_tree_exists_and_every_module_is_in_it():
    tree = README.split("## Files")[1].split("```")[1]
    files = [line.split()[0] for line in tree.strip().splitlines()]
    assert all((ROOT / file).exists() for file in files)
    assert {path.name for path in ROOT.glob("*.py")} <= set(files)


def test_every_preset_is_described():
    assert all(f"`{name}`" in README for name in PRESETS)


def test_requirements_are_exact():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    packages = [line for line in lines if line and not line.startswith("#")]
    assert packages and all(re.fullmatch(r"[a-z_]+==[\d.]+", line, re.I) for line in packages)


def test_every_test_that_a_fault_names_exists():
    source = "".join(
        path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("*.py")
    )
    named = re.findall(r"`(test_\w+)(…|\.py)?`", README)
    assert len(named) > 15
    for name, rest in named:
        assert Path(__file__).with_name(f"{name}.py").exists() if rest == ".py" else name in source
