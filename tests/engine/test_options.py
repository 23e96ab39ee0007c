import pytest

from engine.common import UserError
from engine.options import PRESETS, parse_arguments, resolve_options


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
        ({"kl_target": 2.0}, "--kl_target controls .*: add --kl_type forward or backward"),
        ({"kl_target": 2.0, "kl_type": "forward", "kl_coef": 0}, "--kl_coef .* above 0"),
        ({"kl_target": 0.0, "kl_type": "forward"}, "kl_target must be at least 0.01, not 0.0"),
        ({"kl_target": -1, "kl_type": "forward"}, "kl_target must be at least 0.01, not -1.0"),
        ({"kl_target": float("inf"), "kl_type": "forward"}, "kl_target must be at least 0.01"),
        ({"kl_target": "far", "kl_type": "forward"}, "kl_target must be of type float"),
        ({"config": "no.yaml"}, "Cannot read the config file no.yaml"),
    ],
)
def test_bad_options(given, message):
    with pytest.raises(UserError, match=message):
        resolve_options(given)


def test_a_run_that_began_with_what_is_no_more_is_not_resumed(tmp_path):
    (tmp_path / "run.json").write_text('{"options": {"generation": "vllm"}}')
    with pytest.raises(UserError, match="generation must be one of own, trl, not 'vllm'"):
        resolve_options({"resume": True, "output_dir": str(tmp_path)})


@pytest.mark.parametrize("content", ["- a\n- b\n", "just text", "a: [1\n", ""])
def test_bad_config_files(tmp_path, content):
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(UserError, match="config file .*c.yaml"):
        resolve_options({"config": str(tmp_path / "c.yaml")})
