"""The page about runs, in a real browser where there is one."""

import base64
import gzip
import json
import random
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from made_up_run import EVIL, write_run

from engine.common import ROOT
from engine.measuring.metrics import METRICS
from engine.measuring.optimum import Optimum
from engine.measuring.runs import read_run
from engine.pages import run_page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
OPTIMUM = ("", Optimum({}, {"It is": [i / 99 for i in range(100)]}))


def token(text, q, p):
    tops = [[f" word{i}", -1.0 - i] for i in range(5)]
    return [text, q, p, tops, tops]


def text_row(*tokens, **more):
    return {
        "completion": "".join(t[0] for t in tokens),
        "sentiment": 0.25,
        "tokens": list(tokens),
        **more,
    }


def explore_rows(step):
    policy = text_row(token(" fun", -0.5, -2.0), token(EVIL, -3.0, -2.5), token("", -1.0, -1.0))
    policy |= {"score": 0.25, "shaped": -0.25, "penalty": -0.1, "reward": -0.15}
    rows = [
        {
            "kind": "sample",
            "prompt": prompt,
            "policy": policy,
            "base": text_row(token(" b", -2.0, -1.0)),
        }
        for prompt in ("It is", EVIL)
    ]
    group = {"completions": ["one", EVIL], "score": [0.1, 0.9], "shaped": [0.1, 0.9]}
    group |= {"penalty": [-0.0001, 0.1], "reward": [0.1, 0.8], "advantage": [-0.70701, 0.70701]}
    group |= {"worst": [0, [token("one", -2.0, -2.5)]], "best": [1, [token(EVIL, -1.0, -2.0)]]}
    group |= {"step": step + 1, "equal": 0.375}
    rows.append({"kind": "group", "prompt": "The plot", **group})
    return [{"validation": step, **row} for row in rows]


def without_advantage(step):
    """What a run with --credit prefix keeps."""
    rows = explore_rows(step)
    del rows[-1]["advantage"], rows[-1]["equal"]
    return rows


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page about three runs with odd names: one like others, one without explore.jsonl, one
    whose texts have an advantage for each part."""
    folder = tmp_path_factory.mktemp("page")
    runs = [
        write_run(folder / "<b>run", explore=explore_rows, scale_rewards="none"),
        write_run(folder / "old & plain"),
        write_run(folder / "prefix", explore=without_advantage),
    ]
    path = folder / "r.html"
    run_page.write_page([read_run(run) for run in runs], [OPTIMUM], path)
    return path


def data_of(path):
    packed = re.search(r'id="data">([^<]*)<', path.read_text(encoding="utf-8")).group(1)
    return json.loads(gzip.decompress(base64.b64decode(packed)))


class Tags(HTMLParser):
    """Counts elements, and collects what a page would load."""

    def __init__(self):
        super().__init__()
        self.tags, self.sources = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]


def test_the_page_is_one_file_that_loads_nothing(page):
    text = page.read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(text)
    assert all(source.startswith("#") for source in tags.sources)
    assert tags.tags.count("script") == 2 and "b" not in tags.tags  # names and texts are escaped
    assert re.search(
        r"&lt;b&gt;run<td[^>]*>0\.800.*<td[^>]*>10\.00", text
    )  # readable without JavaScript
    assert "default-src 'none'" in text and not re.search(
        r"https?://(?!www\.w3\.org/2000/svg)", text
    )
    assert set(re.findall(r"\$[a-z]+\b", text)) <= {"$"}  # every placeholder is filled


def test_the_data_are_those_of_the_runs(page):
    new, old, _ = data_of(page)["runs"]
    assert [row["step"] for row in new["validations"]] == [0, 15, 30]
    assert new["explore"] == [row for step in (0, 15, 30) for row in explore_rows(step)]
    assert old["explore"] == [] and len(old["samples"]) == 9
    assert new["samples"][4]["completion"] == f" {EVIL}15.1"
    assert all(0 <= sample["judge"] <= 1 for sample in new["samples"])


def test_three_runs_of_the_medium_preset_stay_under_5_mb(tmp_path):
    """13 validations of 128 samples, and 16 texts of 48 tokens, with hardly any repetition."""
    numbers = random.Random(0)
    words = sorted(set((ROOT / "README.md").read_text(encoding="utf-8").split()))

    def word():
        return " " + numbers.choice(words)

    def value(digits):
        return round(numbers.uniform(-9, 0), digits)

    def text():
        tops = [[[word(), value(2)] for _ in range(5)] for _ in range(96)]
        tokens = [[word(), value(5), value(5), *tops[i : i + 2]] for i in range(0, 96, 2)]
        return text_row(*tokens, ids=[numbers.randrange(50257) for _ in tokens])

    def explore(step):
        sample = {"validation": step, "kind": "sample", "prompt": "It"}
        return [sample | {"policy": text(), "base": text()} for _ in range(8)]

    run = read_run(write_run(tmp_path / "run", range(0, 301, 25), 128, explore))
    for row in run["completions"]:
        row["completion"] = "".join(word() for _ in range(40))
    run_page.write_page([run], [OPTIMUM], tmp_path / "r.html")
    assert 3 * (tmp_path / "r.html").stat().st_size < 5_000_000


ASK = """
<script type="module">
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
while (!document.body.dataset.ready) await wait(20);
const $ = (selector) => document.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const press = (element, key) => {
  element.focus();
  element.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
};
const said = {};
try { QUESTIONS } catch (error) { said.error = String(error.stack); }
document.title = JSON.stringify(said);
</script>"""


def ask(page, questions, *flags):
    """What a script in the page finds: the object `said` that it fills."""
    asking = page.with_name("asking.html")
    script = ASK.replace("QUESTIONS", questions)
    asking.write_text(page.read_text(encoding="utf-8") + script, encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", *flags]
    command += [
        f"--user-data-dir={page.with_name('user')}",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ]
    command += ["--virtual-time-budget=8000", "--allow-file-access-from-files", asking.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, encoding="utf-8")
    title = HTMLParser()
    found = []
    title.handle_data = found.append
    title.feed(re.search("<title>(.*?)</title>", done.stdout, re.S).group(1))
    said = json.loads("".join(found))
    assert "error" not in said, said["error"]
    return said


@pytest.fixture(scope="module")
def said(page):
    """What the page answers to the keyboard and the pointer, asked once.

    Three parts: the texts of the first run, its samples and the charts, which lead to the second
    run, and the third run, whose groups have no advantage.
    """
    return ask(
        page,
        """
        said.first = $("#at").textContent;
        $("#step").stepDown();  // what the left arrow key does to a slider
        $("#step").dispatchEvent(new Event("input", { bubbles: true }));
        said.second = $("#at").textContent;
        said.texts = all("#policy .token").map((span) => span.textContent);
        said.tints = all(".token", $("#policy")).map((s) => +s.style.getPropertyValue("--d"));
        said.sum = $("#policy .sum").textContent;
        said.most = $("#token .name").textContent;
        press(all("#policy .token")[0], "x");
        said.focused = $("#token dl").textContent;
        press(all("#policy .token")[0], "ArrowRight");
        said.walked = $("#token dl").textContent;
        said.stops = all("#policy .token").map((span) => span.tabIndex);
        all("#base .token")[0].dispatchEvent(new PointerEvent("pointerenter"));
        said.hovered = $("#token dl").textContent;
        said.likeliest = all("#token li").length;
        said.group = all("#groups tbody tr").map((row) => all("td", row).map((c) => c.textContent));
        said.note = $("#grpo-note").textContent;
        said.spread = $("#groups .note").textContent;
        said.axes = all(".chart figcaption").map((title) => title.textContent);
        said.meant = all("#curves .chart small").map((note) => note.textContent);
        said.across = all("#frontier text, #places text").map((text) => text.textContent);
        said.words = all(".words dt").map((word) => word.textContent);
        said.bars = all("#frontier .interval").length;
        said.dashes = all("#frontier .path").map((path) => path.getAttribute("stroke-dasharray"));
        said.heights = all("#places .point").map((point) => +point.getAttribute("cy"));
        said.ofSamples = $("#samples-note").textContent;
        $("#prompt").value = 2;
        $("#prompt").dispatchEvent(new Event("change"));
        said.best = $("#policy .sum").textContent;
        said.heads = [$("#base h3").textContent, $("#policy h3").textContent.slice(0, 8)];
        said.ends = all(".pair .token").map((span) => span.textContent);
        said.bold = all("b b, td b, main b:not(.sum b)").length;
        const column = (i) => all("#list tbody tr").map((row) => +row.cells[i].textContent);
        for (const [i, key] of [[1, "sentiment"], [2, "judge"], [3, "kl"]]) {
          $(`[data-sort=${key}]`).click();
          said[key] = [column(i), $(`[data-sort=${key}]`).closest("th").ariaSort];
          $(`[data-sort=${key}]`).click();
          said[key].push(column(i), $(`[data-sort=${key}]`).closest("th").ariaSort);
        }
        const svg = $("#curves .chart svg");
        press(svg, "ArrowRight");
        press(svg, "ArrowRight");
        said.tip = $("#curves .tip").textContent;
        press(svg, "ArrowDown");
        press(svg, "Enter");
        said.kept = document.activeElement === svg;
        said.run = [$("#run").selectedOptions[0].textContent, $("#at").textContent];
        said.old = [$("#texts").hidden, $("#missing").textContent];
        said.charts = all(".chart svg[tabindex='0']").length;
        said.paths = all("#frontier .path").length;
        said.dots = all("#curves .point").length;
        $("#run").value = 2;
        $("#run").dispatchEvent(new Event("change"));
        $("#prompt").value = 2;
        $("#prompt").dispatchEvent(new Event("change"));
        said.partHeads = all("#groups th").map((cell) => cell.textContent);
        said.partNote = $("#grpo-note").textContent;
        said.partBest = $("#policy .sum").textContent;
        said.loaded = performance.getEntriesByType("resource").map((entry) => entry.name);
        said.policy = await fetch("https://example.org/").then(() => "open", () => "closed");
        """,
    )


@needs_browser
def test_slider_texts_and_groups_follow_the_keyboard(said):
    assert (said["first"], said["second"]) == ("step 30 of 30", "step 15 of 30")
    assert said["texts"] == [" fun", EVIL, ""] and said["bold"] == 0
    assert said["tints"] == pytest.approx([1.5, -0.5, 0.0], abs=1e-9)
    assert "+1.00 nats" in said["sum"] and "3 tokens" in said["sum"]
    assert said["sum"].endswith("score 0.250 → shaped −0.250 − penalty −0.100 = reward −0.150")
    chain = "score 0.900 → shaped 0.900 − penalty 0.100 = reward 0.800 → advantage 0.707"
    assert chain in said["best"] and said["heads"] == ["The worst text of the group", "The best"]
    assert said["ends"] == ["one", EVIL]
    assert said["most"] == "␣fun" and said["likeliest"] == 10
    assert said["focused"] == "log q, policy−0.50log p, reference−2.00log q − log p+1.50" + (
        "share of the text's KL150 % of 1.00"
    )
    assert "log q − log p−0.50" in said["walked"] and said["stops"] == [-1, 0, -1]
    assert "log q − log p−1.00" in said["hovered"]
    assert said["note"].startswith("Training step 16")
    assert "In 38 % of the step's groups all rewards were equal" in said["note"]
    assert "not divided by anything: nearly equal rewards have advantages near 0." in said["note"]
    assert said["spread"] == "standard deviation of its rewards: 0.495"  # 0.7 / √2
    assert said["group"] == [
        [EVIL, "0.900", "0.900", "0.100", "0.800", "+0.71"],
        ["one", "0.100", "0.100", "0.000", "0.100", "−0.71"],
    ]


@needs_browser
def test_every_axis_and_word_is_explained(said):
    assert said["axes"] == [
        "mean sentiment on held-out prompts",
        "KL, nats per token, logarithmic scale",
        "sentiment",
        "KL (nats)",
        "ref. perplexity, logarithmic scale",
        "length (tokens)",
        "entropy / token",
    ]
    assert "KL(policy‖ref), nats: linear up to 1, logarithmic beyond" in said["across"]
    assert "tokens from the start of the text" in said["across"]
    assert said["meant"] == [METRICS[name].meaning for name in run_page.CHARTS]
    assert {"KL (nats)", "nats", "ref. perplexity", "entropy / token"} <= set(said["words"])
    assert METRICS["judge"].meaning in said["ofSamples"]


@needs_browser
def test_runs_differ_in_dashes_and_small_nats_are_seen(said):
    """Of the made-up texts of 48 tokens in parts of 6 the first part has 0.125 / 6 nats a token."""
    assert len(set(said["dashes"])) == 3 and said["bars"] == 2 * 3
    assert len(set(said["heights"])) > 1


@needs_browser
def test_samples_sort_and_charts_answer_the_keyboard(said):
    for key in ("sentiment", "judge", "kl"):
        down, down_name, up, up_name = said[key]
        assert (down_name, up_name) == ("descending", "ascending")
        assert down == sorted(down, reverse=True) and up == sorted(up) and len(up) == 3
    assert said["tip"] == "<b>run, step 15: sentiment 0.650"
    assert said["kept"]  # the focus stays where it was
    assert said["run"] == ["old & plain", "step 15 of 30"]
    assert said["old"][0] is True and "no explore.jsonl" in said["old"][1]
    assert (said["charts"], said["paths"], said["dots"]) == (7, 3, 5 * 3 * 3)


@needs_browser
def test_texts_with_an_advantage_for_each_part_show_none_for_the_whole(said):
    assert said["partHeads"] == ["", "score", "shaped", "penalty", "reward"]
    assert "each part of a text has an advantage of its own" in said["partNote"]
    assert "rewards were equal" not in said["partNote"]
    assert said["partBest"].endswith("score 0.900 → shaped 0.900 − penalty 0.100 = reward 0.800")


@needs_browser
def test_the_page_asks_the_network_for_nothing(said):
    assert said["policy"] == "closed"
    assert not [name for name in said["loaded"] if name.startswith("http")]


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_a_phone_and_a_dark_screen(page, dark):
    """In a frame of 390 pixels; texts keep a contrast of 4.5 on every tint."""
    frame = page.with_name("frame.html")
    style = "width: 390px; height: 800px; border: 0"
    frame.write_text(
        f'<title></title><body data-ready=1><iframe src="r.html" style="{style}"></iframe>'
    )
    said = ask(
        frame,
        """
        const frame = $("iframe");
        const inside = () => frame.contentDocument;
        while (!inside()?.body?.dataset.ready) await wait(20);
        const root = inside().documentElement;
        said.width = frame.contentWindow.innerWidth;
        said.scroll = root.scrollWidth;
        const table = inside().querySelector(".scroll");
        said.table = table.scrollWidth - table.clientWidth;
        said.ready = +inside().body.dataset.ready;
        const canvas = document.createElement("canvas").getContext("2d");
        const light = (colours) => {  // relative luminance of colours painted over each other
          for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
          const parts = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((v) => {
            v /= 255;
            return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
          });
          return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
        };
        const style = (element) => frame.contentWindow.getComputedStyle(element);
        const page = style(inside().body).backgroundColor;
        said.page = light([page]);
        said.contrast = all(".token-legend .token", inside()).map((span) => {
          const ends = [light([page, style(span).backgroundColor]), light([style(span).color])];
          return (Math.max(...ends) + 0.05) / (Math.min(...ends) + 0.05);
        });
        said.tints = all(".token-legend .token", inside()).map((s) => style(s).backgroundColor);
        """,
        *(["--blink-settings=preferredColorScheme=0"] if dark else []),
    )
    assert said["width"] == 390 and said["scroll"] <= 390 and said["table"] <= 0
    assert (said["page"] < 0.1) == dark
    assert min(said["contrast"]) > 4.5
    assert len(set(said["tints"])) == 7
