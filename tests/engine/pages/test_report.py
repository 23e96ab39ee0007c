import json
import shutil

import pytest

import evaluate
from engine.common import UserError
from engine.measuring.optimum import SAMPLES, Optimum, read_optimum
from engine.options import PRESETS
from engine.pages import report, run_page


@pytest.fixture
def run_folder(tmp_path):
    """A finished run of three validations, with a name and a text that HTML must escape."""
    folder = tmp_path / "<b>run"
    folder.mkdir()
    options = {
        "reward_shaping": "linear",
        "kl_type": "forward",
        "kl_coef": 0.1,
        "beta": 0.0,
        "hackable_reward": False,
        "negate_reward": False,
        "use_peft": False,
        "model_name": PRESETS["tiny"]["model_name"],
        "sentiment_model": PRESETS["tiny"]["sentiment_model"],
        "max_completion_length": 4,
        "temperature": 1.0,
    }
    (folder / "run.json").write_text(json.dumps({"status": "finished", "options": options}))
    rows, texts = [], []
    for step, kl in ((0, 0.0), (15, 1.0), (30, 12.5)):
        figures = {"sentiment": 0.5 + step / 100, "kl": kl, "perplexity": 20.0, "length": 30.0}
        more = {"positive_share": 0.5, "repetition_3": 0.0}
        rows.append({"step": step, "phase": "validation", **figures, **more})
        for i in range(3):
            text = {"prompt": "It is", "completion": f" <i>{step} & {i}</i>", "sentiment": i / 2}
            texts.append({"step": step, **text})
    for name, lines in (("metrics", rows), ("completions", texts)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    return folder


def test_a_run_is_named_by_what_sets_it_apart(run_folder):
    run = report.read_run(run_folder / "final")  # either folder names the run
    assert report.label(run) == "<b>run (forward 0.1)"
    run["manifest"]["options"]["kl_target"] = 2.0
    assert report.label(run) == "<b>run (forward to 2 nats)"
    run["manifest"]["options"] |= {"kl_type": "none", "beta": 0.04, "use_peft": True}
    assert report.label(run) == "<b>run (beta 0.04, use_peft)"
    run["manifest"]["options"] |= {"credit": "prefix", "use_peft": False}
    assert report.label(run) == "<b>run (beta 0.04, credit by prefix)"


def test_pictures_show_every_run(run_folder):
    run = report.read_run(run_folder)
    curves = report.plot_curves([run, run])
    assert [len(axes.lines) for axes in curves.axes] == [2, 2, 2, 2]
    optimum = Optimum({}, {"It is": [i / 99 for i in range(100)]})
    (axes,) = report.plot_frontier([run], [("", optimum)]).axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[1:] == ["best possible policy", "best of 1 to 64 samples"]
    assert axes.lines[0].get_xdata().tolist() == [0.0, 1.0, 12.5]


@pytest.mark.parametrize("command", ["curves", "frontier", "report"])
def test_the_commands_write_their_file(run_folder, tmp_path, capsys, monkeypatch, command):
    monkeypatch.setattr(evaluate, "VALIDATION_PROMPTS", evaluate.VALIDATION_PROMPTS[:2])
    out = tmp_path / "out.png"
    evaluate.main([command, str(run_folder), "--out", str(out)])
    assert out.stat().st_size > 5000 and capsys.readouterr().out == f"Wrote {out}\n"
    assert sorted(tmp_path.iterdir()) == [run_folder, out]  # no temporary file left
    kept = run_folder / "optimum.json"  # a sample is kept beside the run, for the next picture
    assert kept.exists() == (command != "curves")
    if kept.exists():
        assert read_optimum(kept).table.shape == (2, SAMPLES)


def test_a_folder_without_a_run_is_one_line(tmp_path):
    with pytest.raises(SystemExit, match="is not the output folder of a run") as error:
        evaluate.main(["report", str(tmp_path)])
    assert "\n" not in error.value.code


def test_a_run_without_validation_says_so(run_folder):
    (run_folder / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="has no validation yet"):
        report.read_run(run_folder)


def test_runs_with_different_bases_get_an_optimum_each(run_folder, tmp_path, monkeypatch):
    other = tmp_path / "other"
    shutil.copytree(run_folder, other)
    manifest = json.loads((other / "run.json").read_text())
    manifest["options"]["model_name"] = "another/base"
    (other / "run.json").write_text(json.dumps(manifest))
    asked, drawn = [], {}

    def optimum_of(settings, folders):
        asked.append((settings["model_name"], folders))
        return Optimum({}, {"It is": [0.9 if "another" in asked[-1][0] else 0.4, 0.2]})

    plot = report.plot_frontier

    def recorded(runs, optima):
        drawn.update(optima)
        return plot(runs, optima)

    monkeypatch.setattr(evaluate, "optimum_of", optimum_of)
    monkeypatch.setattr(report, "plot_frontier", recorded)
    evaluate.main(
        ["frontier", str(run_folder), str(other), str(run_folder), "--out", str(tmp_path / "f.png")]
    )
    assert asked == [("tiny/gpt2", [run_folder, run_folder]), ("another/base", [other])]
    levels = {title: optimum.table.max() for title, optimum in drawn.items()}
    assert sorted(levels.values()) == [0.4, 0.9]
    assert any("another/base" in title and value == 0.9 for title, value in levels.items())
    run_page.write_page([report.read_run(f) for f in (run_folder, other)], [], tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text(encoding="utf-8").count("before training, ") == 2


def test_a_picture_of_an_unknown_kind_is_one_line(run_folder, tmp_path):
    with pytest.raises(SystemExit, match="Cannot write a picture of the kind '.doc'"):
        evaluate.main(["curves", str(run_folder), "--out", str(tmp_path / "x.doc")])


def test_each_model_of_a_comparison_has_a_scale_of_its_own():
    def result(*scores):
        metrics = {"sentiment": sum(scores) / len(scores), "kl": 1.25, "perplexity": 20.4}
        return {"samples": [{"sentiment": score} for score in scores], "metrics": metrics}

    comparison = {"base": result(0.12, 0.33, 0.34, 0.93), "trained": result(0.97, 0.99)}
    figure = report.plot_comparison(comparison)
    for axes, name, bars, mean in (
        (figure.axes[0], "base", {2: 25.0, 6: 50.0, 18: 25.0}, "mean 0.43"),
        (figure.axes[1], "trained", {19: 100.0}, "mean 0.98"),
    ):
        heights = {i: bar.get_height() for i, bar in enumerate(axes.patches) if bar.get_height()}
        assert heights == pytest.approx(bars)
        assert max(bars.values()) < axes.get_ylim()[1] < 1.2 * max(bars.values())
        assert axes.get_title() == f"{name} model: KL(policy‖ref) 1.2 nats, ref. ppl 20"
        assert mean in [text.get_text() for text in axes.get_legend().texts]
