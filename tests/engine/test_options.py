import json
import os
import shlex
import shutil

import pytest

from engine import common
from engine.common import UserError
from engine.options import (
    PRESETS,
    at_least,
    parse_arguments,
    read_manifest,
    resolve_options,
    sums_of,
    to_record,
)


def test_explicit_options_win_over_config_over_preset(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("preset: tiny\nmax_steps: 7\nlearning_rate: 5e-4\nwandb: true\n")
    options = resolve_options({"config": str(config), "max_steps": 9})
    assert (options.max_steps, options.learning_rate, options.wandb) == (9, 5e-4, True)
    assert options.max_completion_length == PRESETS["tiny"]["max_completion_length"]
    assert options.kl_coef == 0.1


def test_defaults_are_the_medium_preset():
    assert PRESETS["medium"].items() <= vars(resolve_options({})).items()
    assert resolve_options({"reward_shaping": "none"}).reward_shaping == "linear"


def test_command_line_gives_only_what_was_said():
    given = parse_arguments("", ["--kl_type", "forward", "--use_peft", "--kl_coef", "0.3"])
    assert given == {"kl_type": "forward", "use_peft": True, "kl_coef": 0.3}


@pytest.mark.parametrize(
    "given, message",
    [
        ({"kl_typ": "forward"}, "no option 'kl_typ'. Did you mean kl_type"),
        ({"kl_type": "both"}, "kl_type must be one of none, forward, backward, not 'both'"),
        ({"num_generations": 1}, "num_generations must be at least 2"),
        ({"num_generations": 7}, "7 does not divide --batch_size 64; .* 2, 4, 8, 16, 32, 64"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"max_steps": "many"}, "max_steps must be of type int"),
        ({"max_steps": True}, "max_steps must be of type int"),
        ({"rewards": "mine.py", "use_solution": True}, "give only one of them"),
        ({"max_steps": 2.5}, "max_steps must be of type int"),
        ({"learning_rate": float("nan")}, "learning_rate must be at least 0"),
        ({"learning_rate": True}, "learning_rate must be of type float"),
        ({"temperature": 0.0}, "temperature must be at least 0.01"),
        ({"wandb": "yes"}, "wandb must be of type bool"),
        ({"kl_coef": 0.3}, "--kl_coef is that .*: add --kl_type forward or backward"),
        ({"kl_target": 2.0}, "--kl_target controls .*: add --kl_type forward or backward"),
        ({"kl_target": 2.0, "kl_type": "forward", "kl_coef": 0}, "--kl_coef .* above 0"),
        ({"kl_target": 0.0, "kl_type": "forward"}, "kl_target must be at least 0.01, not 0.0"),
        ({"kl_target": -1, "kl_type": "forward"}, "kl_target must be at least 0.01, not -1.0"),
        ({"kl_target": float("inf"), "kl_type": "forward"}, "kl_target must be at least 0.01"),
        ({"kl_target": "far", "kl_type": "forward"}, "kl_target must be of type float"),
        ({"config": "no.yaml"}, "Cannot read the config file no.yaml"),
        ({"seed": 10**30}, "seed must be at most 4294967295"),
        ({"max_steps": 2**32}, "max_steps must be at most 4294967295"),
    ],
)
def test_bad_options(given, message):
    with pytest.raises(UserError, match=message):
        resolve_options(given)


def test_a_run_that_began_with_what_is_no_more_is_not_resumed(tmp_path):
    (tmp_path / "run.json").write_text('{"options": {"generation": "vllm"}}')
    with pytest.raises(UserError, match="generation must be one of own, trl, not 'vllm'"):
        resolve_options({"resume": True, "output_dir": str(tmp_path)})


@pytest.mark.parametrize(
    "content", ["- a\n- b\n", "just text", "a: [1\n", "", "on: 3\n", "off: x\n", "2026-01-01: 3\n"]
)
def test_bad_config_files(tmp_path, content):
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(UserError, match="config file .*c.yaml"):
        resolve_options({"config": str(tmp_path / "c.yaml")})


def test_a_number_of_the_command_line_has_an_end(capsys):
    assert at_least(0, int)("4294967295") == 2**32 - 1
    with pytest.raises(Exception, match="is more than 4294967295"):
        at_least(0, int)("1" * 30)


# What a run records, and what it asks of the files of today when it is resumed.


def write_model(folder, weights):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(weights)


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """A project, with a run that was begun there: its folder, and what it was begun with."""
    project = tmp_path / "project"
    monkeypatch.setattr(common, "ROOT", project)
    write_model(project / "tiny" / "gpt2", "policy")
    write_model(tmp_path / "models" / "stars", "stars")
    (tmp_path / "mine.py").write_text("first")
    (tmp_path / "prompts.txt").write_text("It was\n")
    given = {
        "model_name": str(project / "tiny" / "gpt2"),
        "sentiment_model": str(tmp_path / "models" / "stars"),
        "rewards": str(tmp_path / "mine.py"),
        "prompts": str(tmp_path / "prompts.txt"),
        "output_dir": str(project / "outputs" / "a run"),
    }
    options = resolve_options(given)
    (project / "outputs" / "a run").mkdir(parents=True)
    manifest = {"options": to_record(options), "sha256": sums_of(options)}
    common.write_json(project / "outputs" / "a run" / "run.json", manifest)
    return project / "outputs" / "a run", given


def resume(folder, **given):
    return resolve_options({"resume": True, "output_dir": str(folder), **given})


def test_a_run_records_the_project_by_name_and_the_rest_by_path(begun, tmp_path, monkeypatch):
    folder, given = begun
    recorded = json.loads((folder / "run.json").read_text())["options"]
    assert recorded["model_name"] == "tiny/gpt2"
    assert recorded["sentiment_model"] == str(tmp_path / "models" / "stars")
    monkeypatch.chdir(tmp_path)
    options = resolve_options({"sentiment_model": "models/stars", "output_dir": "x"})
    assert to_record(options)["sentiment_model"] == str(tmp_path / "models" / "stars")
    assert (to_record(options)["model_name"], to_record(options)["rewards"]) == ("gpt2", None)


def test_a_project_that_has_moved_is_resumed_from_any_folder(begun, tmp_path, monkeypatch):
    folder, given = begun
    (tmp_path / "project").rename(tmp_path / "renamed")
    monkeypatch.setattr(common, "ROOT", tmp_path / "renamed")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "renamed" / "outputs" / "a run"
    assert read_manifest(folder)["options"]["model_name"] == str(tmp_path / "renamed/tiny/gpt2")
    for named in (
        {},
        {"model_name": "renamed/tiny/gpt2"},
        {"model_name": "renamed/tiny/../tiny/gpt2"},
    ):
        assert os.path.samefile(resume(folder, **named).model_name, "renamed/tiny/gpt2")


def test_a_model_that_has_moved_can_be_named_and_no_other(begun, tmp_path):
    folder, given = begun
    shutil.move(tmp_path / "models", tmp_path / "elsewhere")
    with pytest.raises(UserError, match="stars is no more: say where it is now with --sentiment_m"):
        resume(folder)
    stars = str(tmp_path / "elsewhere" / "stars")
    assert resume(folder, sentiment_model=stars).sentiment_model == stars
    (tmp_path / "elsewhere" / "stars" / "model.safetensors").write_text("others")
    with pytest.raises(UserError, match="stars is not what it was when .* Name the model of then"):
        resume(folder, sentiment_model=stars)


@pytest.mark.parametrize("name, file", [("rewards", "mine.py"), ("prompts", "prompts.txt")])
def test_a_file_that_has_changed_stops_a_resumed_run_until_it_is_named(begun, tmp_path, name, file):
    folder, given = begun
    resume(folder)
    (tmp_path / file).write_text("changed")
    with pytest.raises(
        UserError, match=f"{file} is not what it was when the run in .* began"
    ) as error:
        resume(folder)
    words = shlex.split(str(error.value).partition("; ")[2])
    assert words[:3] == ["--resume", f"--{name}", str(tmp_path / file)]
    assert getattr(resume(folder, **{name: words[2]}), name) == words[2]


def test_a_changed_solution_is_named_by_its_flag(tmp_path, monkeypatch):
    monkeypatch.setattr("engine.options.ROOT", tmp_path)
    (tmp_path / "rewards_solution.py").write_text("first")
    options = resolve_options({"use_solution": True})
    common.write_json(
        tmp_path / "run.json", {"options": to_record(options), "sha256": sums_of(options)}
    )
    (tmp_path / "rewards_solution.py").write_text("second")
    with pytest.raises(UserError, match="--resume --use_solution goes on with it as it is"):
        resume(tmp_path)
    assert resume(tmp_path, use_solution=True).use_solution


def test_a_run_of_a_version_without_sums_goes_by_names(begun, tmp_path):
    folder, given = begun
    manifest = json.loads((folder / "run.json").read_text())
    gone = {"model_name": "/gone/project/tiny/gpt2"}
    common.write_json(folder / "run.json", {"options": manifest["options"] | gone})
    with pytest.raises(UserError, match="say where it is now with --model_name"):
        resume(folder)
    model = given["model_name"]
    assert resume(folder, model_name=model).model_name == model
    with pytest.raises(UserError, match="began with rewards .*mine.py, not .*other.py"):
        resume(folder, model_name=model, rewards=str(tmp_path / "other.py"))


def test_a_coefficient_may_stand_beside_no_penalty_where_that_is_said(tmp_path):
    """On the command line, in a file whose penalty the command line switches off, in a record."""
    file = tmp_path / "c.yaml"
    file.write_text("kl_type: forward\nkl_coef: 0.3\n")
    for given in (
        {"kl_type": "none", "kl_coef": 0.3},
        {"config": str(file), "kl_type": "none"},
        vars(resolve_options({})),
    ):
        assert resolve_options(given).kl_type == "none"
    assert resolve_options({"config": str(file), "kl_coef": 0.2}).kl_coef == 0.2
