import json

import pytest
from made_up_run import write_run

import evaluate
from engine.measuring.optimum import SAMPLES, Optimum, read_optimum, settings_of
from engine.measuring.runs import base_of, paid_by, read_run, sentiment_at
from engine.pages import report, run_page


@pytest.fixture
def run_folder(tmp_path):
    """A finished run of three validations, with a name and texts that HTML must escape."""
    return write_run(tmp_path / "<b>run", kl_type="forward", max_completion_length=4)


def test_a_run_is_named_by_what_sets_it_apart(run_folder):
    run = read_run(run_folder / "final")  # either folder names the run
    assert report.label(run) == "<b>run (forward 0.1)"
    run["manifest"]["options"]["kl_target"] = 2.0
    assert report.label(run) == "<b>run (forward to 2 nats)"
    run["manifest"]["options"] |= {"kl_type": "none", "beta": 0.04, "use_peft": True}
    assert report.label(run) == "<b>run (beta 0.04, use_peft)"
    run["manifest"]["options"] |= {"credit": "prefix", "use_peft": False}
    assert report.label(run) == "<b>run (beta 0.04, credit by prefix)"


def test_pictures_show_every_run(run_folder):
    run = read_run(run_folder)
    curves = report.plot_curves([run, run])
    assert [len(axes.lines) for axes in curves.axes] == [2, 2, 2, 2]
    assert curves.axes[2].get_title() == "ref. perplexity, logarithmic"
    optimum = Optimum({}, {"It is": [i / 99 for i in range(100)]})
    picture = report.plot_frontier([run], [("", optimum)])
    (axes,) = picture.axes
    labels = [text.get_text() for text in picture.legends[0].get_texts()]
    interval = "95 % interval over prompts"
    assert labels[1:] == [interval, "best possible policy", "best of 1 to 64 samples"]
    assert axes.lines[0].get_xdata().tolist() == [0.0, 5.0, 10.0]
    assert len(axes.lines) == 4  # the path, its end, the best policy and best of n


def test_the_noise_of_a_start_is_drawn_beside_the_line(run_folder):
    """Six texts, of which the two to one prompt score alike: three observations of 0, 0.6, 0.9.
    Of the 27 draws of three, one in 27 is all 0, and one all 0.9: those are the 95 % interval."""
    run = read_run(run_folder)
    run["completions"] = [
        {"step": step, "prompt": prompt, "sentiment": score}
        for step in (0, 30)
        for prompt, score in (("a", 0.0), ("b", 0.6), ("c", 0.9))
        for _ in range(2)
    ]
    estimate = sentiment_at(run, 0)
    assert estimate == pytest.approx({"mean": 0.5, "low": 0.0, "high": 0.9}, abs=1e-12)
    assert sentiment_at(run, 15) is None
    (axes,) = report.plot_frontier([run]).axes
    (bars,) = axes.collections
    ends = [segment.tolist() for segment in bars.get_segments()]
    assert ends == [[[0.0, 0.0], [0.0, 0.9]], [[10.0, 0.0], [10.0, 0.9]]]
    assert axes.get_xlim()[0] < 0  # the start is not hidden by the frame
    run["completions"] = run["completions"][:2]  # of one prompt: nothing is known of its noise
    assert not report.plot_frontier([run]).axes[0].collections


def test_names_of_runs_that_end_together_do_not_cover_each_other(run_folder):
    run = read_run(run_folder)
    runs = [{**run, "name": f"a name of some length {i}"} for i in range(5)]
    picture = report.plot_frontier(runs)
    picture.draw_without_rendering()
    (axes,) = picture.axes
    boxes = [text.get_window_extent() for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == [run["name"] for run in runs]
    assert [box.count_overlaps(boxes) for box in boxes] == [1] * 5  # with itself
    inside = axes.bbox
    assert all(inside.contains(box.x0, box.y0) for box in boxes)
    assert all(inside.contains(box.x1, box.y1) for box in boxes)


def test_the_name_of_a_run_covers_no_line(run_folder):
    """The first place for the name of one, below its end and to the right, is on another's path."""
    run = read_run(run_folder)
    rows = [row | {"sentiment": row["sentiment"] - 0.05} for row in run["validations"]]
    rows += [{**rows[-1], "kl": 40.0, "sentiment": 0.78}]
    other = {**run, "validations": rows}
    picture = report.plot_frontier([{**run, "name": "a long name"}, {**other, "name": "b"}])
    picture.draw_without_rendering()
    (axes,) = picture.axes
    paths = [line.get_path().transformed(line.get_transform()) for line in axes.lines]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not [box for box in boxes for path in paths if path.intersects_bbox(box, filled=False)]


def test_runs_differ_in_more_than_their_colour(run_folder):
    runs = [read_run(run_folder)] * 12
    for picture in (report.plot_frontier(runs), report.plot_curves(runs)):
        lines = [line for line in picture.axes[0].lines if len(line.get_xdata()) == 3]
        styles = {(line.get_color(), line.get_marker()) for line in lines}
        assert len(styles) == 12 and len({marker for _, marker in styles}) == 7
        assert picture.get_figwidth() <= 7.5  # at 360 pixels 10 points are 6.7 pixels or more


def test_a_run_of_an_older_rewards_file_is_marked_everywhere(run_folder, tmp_path):
    """In the legends, in the table of the page and in its choice of runs."""
    manifest = json.loads((run_folder / "run.json").read_text())
    manifest |= {"rewards_called": ["sentiment_reward"], "rewards_code": "0" * 64}
    (run_folder / "run.json").write_text(json.dumps(manifest))
    run = read_run(run_folder)
    for picture in (report.plot_frontier([run]), report.plot_curves([run])):
        texts = [text.get_text() for text in picture.legends[0].get_texts()]
        assert texts[0] == "<b>run (forward 0.1, older rewards.py)"
    page = run_page.page_data([run], [], [{}])
    assert page["runs"][0]["label"] == "<b>run (forward 0.1, older rewards.py)"
    assert "forward 0.1, older rewards.py" in run_page.before_and_after([run], [{}])


def test_the_nats_of_a_run_are_cut_at_the_optimum(run_folder):
    """In the picture and in the table, where the optimum is that of the run's base and prompts."""
    run = read_run(run_folder)
    scores = {f"It is {i}": [j / 399 for j in range(400)] for i in range(3)}
    optimum = Optimum(settings_of(*base_of(run)), scores, 0.0)
    run["completions"] = [{**row, "sentiment": 0.6, "kl": 2.0} for row in run["completions"]]
    nats = paid_by(run, [optimum])
    assert nats["needed"]["mean"] + nats["sideways"]["mean"] == pytest.approx(2.0, abs=1e-12)
    assert nats["needed"]["mean"] == pytest.approx(optimum.needed_kl(0.6), abs=1e-12)
    (axes,) = report.plot_frontier([run], [("", optimum)]).axes
    needed, sideways = (axes.lines[i].get_xdata() for i in (2, 3))
    assert list(needed) == [0.0, nats["needed"]["mean"]]
    assert list(sideways) == [nats["needed"]["mean"], 10.0]  # to the KL of its last validation
    assert "nats that went sideways" in axes.get_legend_handles_labels()[1]
    (on_the_page,) = run_page.page_data([run], [("", optimum)], [nats])["runs"]
    assert on_the_page["needed"] == nats["needed"]["mean"]
    assert run_page.page_data([run], [], [{}])["runs"][0]["needed"] is None
    table = run_page.before_and_after([run], [nats])
    cell = f'<td data-name="sideways">{nats["sideways"]["mean"]:.2f} ('
    assert cell in table and "<th>sideways" in table
    other = Optimum(settings_of("gpt2", "x", 32, 1.0), scores, 0.0)
    assert paid_by(run, [other]) == {} and len(report.plot_frontier([run]).axes[0].lines) == 2


def test_where_in_a_text_the_nats_are_paid(run_folder):
    """Texts of at most 48 tokens in eight parts of six; texts 0, 1 and 2 have 0, 1/8, 2/8 more."""
    run = read_run(run_folder)
    run["manifest"]["options"]["max_completion_length"] = 48
    places = run_page.nats_by_place(run)
    assert [point["x"] for point in places] == [3, 9, 15, 21, 27, 33, 39, 45]
    want = [(0.125 + part / 100) / 6 for part in range(8)]
    assert [point["y"] for point in places] == pytest.approx(want, abs=1e-12)
    for row in run["completions"]:
        del row["kl_parts"]  # an older run
    assert run_page.nats_by_place(run) == []


def test_the_commands_write_their_file(run_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "VALIDATION_PROMPTS", evaluate.VALIDATION_PROMPTS[:2])
    optimum = run_folder / "optimum.json"
    for command in ("curves", "frontier", "report"):
        out = tmp_path / f"{command}.png"
        evaluate.main([command, str(run_folder), "--out", str(out)])
        assert out.stat().st_size > 5000 and capsys.readouterr().out == f"Wrote {out}\n"
        assert len(list(tmp_path.iterdir())) == 2  # no temporary file left
        out.unlink()
        assert optimum.exists() == (command != "curves")
    assert read_optimum(optimum).table.shape == (2, SAMPLES)  # kept, for the next picture


def test_runs_with_different_bases_get_an_optimum_each(run_folder, tmp_path, monkeypatch):
    other = write_run(tmp_path / "other", model_name="another/base")
    asked = []
    drawn = {}

    def optimum_of(base, folders):
        asked.append((base.model_name, folders))
        return Optimum({}, {"It is": [0.9 if "another" in base.model_name else 0.4, 0.2]})

    def plot_frontier(runs, optima):
        drawn.update(optima)
        return report.plot_frontier(runs, optima)

    monkeypatch.setattr(evaluate, "optimum_of", optimum_of)
    monkeypatch.setattr(evaluate, "plot_frontier", plot_frontier)
    runs = [str(folder) for folder in (run_folder, other, run_folder)]
    evaluate.main(["frontier", *runs, "--out", str(tmp_path / "f.png")])
    assert asked == [("tiny/gpt2", [run_folder, run_folder]), ("another/base", [other])]
    levels = {title: optimum.table.max() for title, optimum in drawn.items()}
    assert sorted(levels.values()) == [0.4, 0.9]
    assert any("another/base" in title and value == 0.9 for title, value in levels.items())
    run_page.write_page([read_run(folder) for folder in runs[:2]], [], tmp_path / "r.html")
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
