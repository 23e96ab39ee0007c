// The page about runs: charts, texts token by token, what GRPO saw, all samples.

/** The page's data: JSON, compressed, in base64. */
async function unpack(text) {
  const packed = atob(text);
  const bytes = new Uint8Array(packed.length);
  for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

const data = await unpack(document.getElementById("data").textContent);
const $ = (selector) => document.querySelector(selector);
const chosen = { run: 0, index: 0, prompt: 0 };
const PARTS = ["score", "shaped", "penalty", "reward", "advantage"];
const sorted = { key: null, down: true };
const colour = (i) => `var(--run-${i % 6})`;
const dash = (i) => ["none", "8 4", "2 3", "10 3 2 3", "4 2"][i % 5]; // with the colours, 30 pairs

/** An element with a class and children; texts stay texts, whatever they contain. */
function make(name, className, ...children) {
  const element = document.createElement(name);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

function number(value, digits = 2) {
  if (value === null || value === undefined) return "—";
  return value.toFixed(digits).replace(/^-(0\.?0*)$/, "$1").replace("-", "−");
}

function written(name, value) {
  if (value === null || value === undefined) return "—";
  const { digits, percent } = data.metrics[name];
  return percent ? `${number(value * 100, digits)} %` : number(value, digits);
}

const signed = (value, digits) => (value > 0 ? "+" : "") + number(value, digits);

/** A token's text where spaces and line ends would not be seen. */
const visible = (text) => text.replaceAll("\n", "⏎").replace(/^ /, "␣") || "(no text)";

// Charts

function legend() {
  for (const list of document.querySelectorAll(".legend")) {
    data.runs.forEach((run, i) => {
      const item = make("li");
      const line = draw(item, "svg", { width: 26, height: 10, "aria-hidden": true });
      draw(line, "line", { x1: 1, x2: 25, y1: 5, y2: 5, "stroke-width": 3, style: `stroke: ${colour(i)}`, "stroke-dasharray": dash(i) });
      item.append(run.label);
      list.append(item);
    });
  }
}

function choose(run, index) {
  Object.assign(chosen, { run, index });
  update();
}

function series(x, y, text, withBars = false) {
  return data.runs.map((run, i) => ({
    colour: colour(i),
    dash: dash(i),
    points: run.validations.map((row, index) => (
      { x: row[x], y: row[y], ...(withBars && { low: row.low, high: row.high }), run: i, index,
        text: `${run.name}, step ${row.step}: ${text(row)}` }
    )),
  }));
}

function curves() {
  const rows = data.runs.flatMap((run) => run.validations);
  const last = Math.max(...rows.map((row) => row.step), 1);
  const drawn = data.panels.filter((name) => rows.some((row) => row[name] !== null)); // older runs lack some
  return drawn.map((name) => {
    const values = rows.map((row) => row[name]).filter((value) => value !== null);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const ends = { sentiment: [0, 1], perplexity: [low / 1.15, high * 1.15] }[name];
    const figure = make("figure", "chart");
    $(".panels").append(figure);
    return chart(figure, series("step", name, (row) => `${data.metrics[name].title} ${written(name, row[name])}`), {
      title: data.metrics[name].title + (name === "perplexity" ? ", logarithmic scale" : ""),
      note: data.metrics[name].meaning,
      yScale: name === "perplexity" ? "log" : "linear",
      x: [0, last],
      y: ends ?? [Math.min(low, 0), high * 1.05 || 1],
      xTitle: "step",
      choose,
    });
  });
}

function frontier() {
  const figure = $("#frontier");
  const rows = data.runs.flatMap((run) => run.validations);
  const text = (row) => `sentiment ${written("sentiment", row.sentiment)}, ${written("kl", row.kl)} nats`;
  const lines = series("kl", "sentiment", text, true);
  for (const { points } of lines) for (const point of points) if (point.x !== null) point.x = Math.max(point.x, 0);
  const low = Math.min(...rows.map((row) => row.low ?? row.sentiment ?? 1), ...data.optima.map(({ curve }) => curve[0].low));
  const far = Math.max(...rows.map((row) => row.kl ?? 0), ...data.optima.map(({ curve }) => curve.at(-1).kl), 1);
  chart(figure, lines, {
    title: "mean sentiment on held-out prompts",
    label: "Sentiment against KL(policy‖ref), one path for each run",
    xScale: "symlog", x: [0, far * 1.25], y: [Math.max(Math.floor(low * 10 - 0.5) / 10, 0), 1], height: 360, choose,
    xTitle: "KL(policy‖ref), nats: linear up to 1, logarithmic beyond",
    before(svg, at) {
      for (const { curve, points } of data.optima) {
        const path = (name, rows) => rows.map((row) => `${at.x(row.kl)},${at.y(row[name])}`);
        draw(svg, "polygon", { class: "band", points: [...path("low", curve), ...path("high", [...curve].reverse())].join(" ") });
        draw(svg, "polyline", { class: "best", points: path("sentiment", curve).join(" ") });
        for (const row of points) {
          const title = `best of ${row.n}: sentiment ${number(row.sentiment)}, ${number(row.kl)} nats`;
          draw(draw(svg, "circle", { class: "many", cx: at.x(row.kl), cy: at.y(row.sentiment), r: 3 }), "title", {}, title);
        }
      }
      for (const [i, { needed, validations }] of data.runs.entries()) {
        if (needed === null) continue;
        const { kl, sentiment } = validations.at(-1);
        const level = (part, from, to) => draw(svg, "line", { class: part, style: `stroke: ${colour(i)}`, x1: at.x(from), x2: at.x(to), y1: at.y(sentiment), y2: at.y(sentiment) });
        level("needed", 0, needed);
        level("sideways", needed, kl);
      }
    },
  });
  for (const { title, points } of data.optima) {
    const item = make("li");
    const line = draw(item, "svg", { width: 26, height: 10, class: "chart", "aria-hidden": true });
    draw(line, "line", { class: "best", x1: 1, x2: 25, y1: 5, y2: 5 });
    draw(line, "circle", { class: "many", cx: 13, cy: 5, r: 3 });
    item.append(`best possible policy${title}, and best of ${points[0].n} to ${points.at(-1).n} samples`);
    $("#outcome .legend").append(item);
  }
  if (data.runs.every(({ needed }) => needed === null)) return;
  for (const [part, meaning] of [["needed", "nats that the last sentiment of a run needs"], ["sideways", "its nats that went sideways"]]) {
    const item = make("li");
    const line = draw(item, "svg", { width: 26, height: 10, class: "chart", "aria-hidden": true });
    draw(line, "line", { class: part, style: "stroke: currentColor", x1: 1, x2: 25, y1: 5, y2: 5 });
    item.append(meaning);
    $("#outcome .legend").append(item);
  }
}

const LEAST = 0.001; // nats a token that the logarithmic scale of places shows

function places() {
  const lines = data.runs.map((run, i) => ({
    colour: colour(i),
    dash: dash(i),
    points: run.places.map(({ x, y }, index) => (
      { x, y: Math.max(y, LEAST), run: i, index, text: `${run.name}, near token ${Math.round(x)}: ${y.toFixed(3)} nats a token` }
    )),
  }));
  const all = lines.flatMap(({ points }) => points);
  const section = $("#places").closest("div");
  section.hidden = !all.length;
  if (!all.length) return;
  const values = all.map(({ y }) => y);
  chart($("#places"), lines, {
    title: "KL, nats per token, logarithmic scale",
    label: "Nats per token along a text, after training, one line for each run",
    yScale: "log",
    x: [0, Math.max(...all.map(({ x }) => x)) * 1.06],
    y: [Math.min(...values) / 1.3, Math.max(...values) * 1.3],
    xTitle: "tokens from the start of the text",
  });
}

// Texts, token by token

const sumOf = (tokens) => tokens.reduce((sum, [, q, p]) => sum + q - p, 0);

function showText(side, text, prompt) {
  const holder = $(`#${side} .tokens`);
  $(`#${side}`).hidden = !text;
  if (!text) return;
  const spans = text.tokens.map(([part, q, p], i) => {
    const span = make("span", "token", part);
    span.style.setProperty("--d", q - p);
    span.tabIndex = i ? -1 : 0;
    span.setAttribute("aria-label", `${visible(part)}: log q minus log p ${number(q - p)}`);
    span.addEventListener("focus", () => showToken(text, i, span));
    span.addEventListener("pointerenter", () => showToken(text, i, span));
    return span;
  });
  holder.replaceChildren(make("span", "prompt", prompt), ...spans);
  const sum = $(`#${side} .sum`);
  sum.replaceChildren(
    ...(text.sentiment === undefined ? [] : ["sentiment ", make("b", "", number(text.sentiment)), ", "]),
    "log q − log p of the whole text ", make("b", "", `${signed(sumOf(text.tokens))} nats`),
    `, ${text.tokens.length} tokens`,
  );
  if (text.reward !== undefined) sum.append(make("br"), ...chain(text));
}

/** What is known of a group: no advantage where its texts have one for each part (--credit prefix). */
function partsOf(group) {
  return PARTS.filter((name) => group[name]);
}

/** The best or the worst text of a group, with the parts of its reward. */
function member(group, end) {
  const [i, tokens] = group[end];
  return { tokens, ...Object.fromEntries(partsOf(group).map((name) => [name, group[name][i]])) };
}

function chain({ score, shaped, penalty, reward, advantage }) {
  const part = (name, value) => [`${name} `, make("b", "", number(value, 3))];
  const earned = [...part("score", score), " → ", ...part("shaped", shaped), " − ", ...part("penalty", penalty), " = ", ...part("reward", reward)];
  return advantage === undefined ? earned : [...earned, " → ", ...part("advantage", advantage)];
}

function showToken(text, i, span) {
  for (const old of document.querySelectorAll(".chosen")) old.classList.remove("chosen");
  span.classList.add("chosen");
  const [part, q, p, qTop, pTop] = text.tokens[i];
  const sum = sumOf(text.tokens);
  const share = Math.abs(sum) < 0.005 ? "—" : `${number(((q - p) / sum) * 100, 0)} % of ${number(sum)}`;
  const facts = make("dl");
  for (const [name, value] of [
    ["log q, policy", number(q)], ["log p, reference", number(p)],
    ["log q − log p", signed(q - p, 2)], [`share of the text's ${span.closest("#policy") || text.reward !== undefined ? "KL" : "sum"}`, share],
  ]) facts.append(make("dt", "", name), make("dd", "", value));
  $("#token").replaceChildren(
    make("div", "", make("p", "name", make("code", "", visible(part))), facts),
    favourites("The policy's five likeliest", qTop, part),
    favourites("The reference's five likeliest", pTop, part),
  );
}

function favourites(title, tops, own) {
  const list = make("ol");
  for (const [text, value] of tops) {
    const bar = make("span", "bar");
    bar.style.width = `${Math.exp(value) * 100}%`;
    const share = `${number(Math.exp(value) * 100, 1)} %`;
    list.append(make("li", text === own ? "own" : "", make("code", "", visible(text)), make("span", "", bar), make("span", "", share)));
  }
  return make("div", "", make("h3", "", title), list);
}

/** Left and right go from token to token, as in a line of text. */
function walk(event) {
  const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const spans = [...event.currentTarget.querySelectorAll(".token")];
  const next = spans[spans.indexOf(event.target) + by];
  if (!by || !next) return;
  event.preventDefault();
  spans.forEach((span) => { span.tabIndex = span === next ? 0 : -1; });
  next.focus();
}

function showTexts(run, step) {
  const rows = run.explore.filter((row) => row.validation === step && (row.kind === "sample" || row.best));
  $("#texts").hidden = !rows.length;
  $("#missing").hidden = Boolean(rows.length);
  $("#missing").textContent = run.explore.length
    ? "At this validation no single tokens were kept; move the slider."
    : "This run has no explore.jsonl, the file with the single tokens. All samples are below.";
  const select = $("#prompt");
  select.replaceChildren(...rows.map((row, i) => new Option(row.best ? `${row.prompt} (training step ${row.step})` : row.prompt, i)));
  select.disabled = !rows.length;
  if (!rows.length) return;
  chosen.prompt = Math.min(chosen.prompt, rows.length - 1);
  select.value = chosen.prompt;
  const row = rows[chosen.prompt];
  const { prompt } = row;
  const base = row.best ? member(row, "worst") : row.base ?? (step === 0 ? row.policy : null);
  const policy = row.best ? member(row, "best") : row.policy;
  $("#base h3").textContent = row.best ? "The worst text of the group" : "The base model wrote";
  $("#policy h3").textContent = row.best ? "The best text of the group" : "The policy writes";
  showText("base", base, prompt);
  showText("policy", policy, prompt);
  const size = ([, q, p]) => Math.abs(q - p);
  const most = policy.tokens.reduce((best, token, i) => (size(token) > size(policy.tokens[best]) ? i : best), 0);
  if (policy.tokens.length) showToken(policy, most, $("#policy .tokens").querySelectorAll(".token")[most]);
  else $("#token").replaceChildren();
}

// What GRPO saw

/** How a run made advantages of rewards, and what follows where they are nearly equal. */
function advantageOf({ own_grpo: own, scale_rewards: scale }) {
  if (own) return "the advantage is what your group_advantages returned.";
  const minus = "the advantage is the reward minus the group's mean";
  if (scale === "none") return `${minus}, not divided by anything: nearly equal rewards have advantages near 0.`;
  if (scale === "batch") return `${minus}, divided by the standard deviation of the batch.`;
  return `${minus}, divided by the group's standard deviation. So where its rewards are nearly equal, small ` +
    "differences become advantages as large as anywhere: only the order in the group and the gaps in it count.";
}

function deviation(values) {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (values.length - 1));
}

function showGroups(run, step) {
  const groups = run.explore.filter((row) => row.kind === "group" && row.validation === step);
  $("#grpo-note").textContent = groups.length
    ? `Training step ${groups[0].step}: ${groups.length} of its groups. Score → shaping → minus penalty = reward; ` +
      (groups[0].advantage
        ? `${advantageOf(run.manifest.options)} Texts with an advantage above 0 become more likely.`
        : "with --credit prefix each part of a text has an advantage of its own, by what it added to the reward.") +
      (groups[0].equal ? ` In ${Math.round(100 * groups[0].equal)} % of the step's groups all rewards were equal: no advantage.` : "")
    : "No groups were kept beside this validation.";
  $("#groups").replaceChildren(...groups.map((group) => {
    const table = make("table", "list");
    table.append(make("thead", "", make("tr", "", make("th", "text", ""), ...partsOf(group).map((name) => make("th", "", name)))));
    const order = group.reward.map((_, i) => i).sort((a, b) => group.reward[b] - group.reward[a]);
    const body = make("tbody");
    for (const i of order) {
      const cells = partsOf(group).map((name) => {
        const value = group[name][i];
        const cell = make("td", "", name === "advantage" ? signed(value, 2) : number(value, 3));
        cell.dataset.name = name;
        if (name === "advantage") cell.className = value > 0 ? "good" : "bad";
        return cell;
      });
      body.append(make("tr", "", make("td", "text", group.completions[i]), ...cells));
    }
    table.append(body);
    const spread = make("p", "note", `standard deviation of its rewards: ${number(deviation(group.reward), 3)}`);
    return make("div", "group", make("p", "prompt", `${group.prompt} …`), spread, table);
  }));
}

// All samples

const SORTS = ["sentiment", "judge", "kl"];

function showSamples(run, step) {
  const rows = run.samples.filter((row) => row.step === step);
  if (sorted.key) rows.sort((a, b) => (sorted.down ? -1 : 1) * (a[sorted.key] - b[sorted.key]));
  $("#samples-note").textContent = `${rows.length} completions of ${run.label} at step ${step}. ` +
    "A name above the figures sorts by it; a second time turns the order around. " +
    `Sentiment: ${data.metrics.sentiment.meaning}. Judge: ${data.metrics.judge.meaning}, which no run was paid for. ` +
    "KL nats: log q − log p of this text, which may be below 0.";
  const names = SORTS.map((key) => {
    const button = make("button", "", data.metrics[key].column, sorted.key !== key ? "" : sorted.down ? " ↓" : " ↑");
    button.dataset.sort = key;
    const cell = make("th", "", button);
    if (sorted.key === key) cell.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
    return cell;
  });
  const body = make("tbody");
  for (const row of rows) {
    const text = make("td", "text", make("span", "prompt", row.prompt), row.completion);
    const cells = SORTS.map((key) => {
      const cell = make("td", "", number(row[key]));
      cell.dataset.name = data.metrics[key].column;
      return cell;
    });
    body.append(make("tr", "", text, ...cells));
  }
  $("#list").replaceChildren(make("thead", "", make("tr", "", make("th", "text", ""), ...names)), body);
}

$("#list").addEventListener("click", (event) => {
  const key = event.target.closest("button")?.dataset.sort;
  if (!key) return;
  Object.assign(sorted, { key, down: sorted.key === key ? !sorted.down : true });
  const run = data.runs[chosen.run];
  showSamples(run, run.validations[chosen.index].step);
  $(`[data-sort=${key}]`).focus();
});

// All together

function update() {
  const run = data.runs[chosen.run];
  chosen.index = Math.min(chosen.index, run.validations.length - 1);
  const { step } = run.validations[chosen.index];
  $("#run").value = chosen.run;
  $("#step").max = run.validations.length - 1;
  $("#step").value = chosen.index;
  const said = `step ${step} of ${run.validations.at(-1).step}`;
  $("#step").setAttribute("aria-valuetext", said);
  $("#at").textContent = said;
  panels.forEach((panel) => panel.mark(step));
  showTexts(run, step);
  showGroups(run, step);
  showSamples(run, step);
}

legend();
frontier();
const panels = curves();
places();
for (const [i, run] of data.runs.entries()) {
  $("#run").append(new Option(run.label, i));
  const text = JSON.stringify(run.manifest, null, 1);
  $("#manifests").append(make("details", "", make("summary", "", run.label), make("pre", "", text)));
}
$("#run").addEventListener("change", (event) => choose(+event.target.value, chosen.index));
$("#step").addEventListener("input", (event) => choose(chosen.run, +event.target.value));
$("#prompt").addEventListener("change", (event) => { chosen.prompt = +event.target.value; update(); });
for (const side of ["base", "policy"]) $(`#${side} .tokens`).addEventListener("keydown", walk);
choose(0, data.runs[0].validations.length - 1);
document.body.dataset.ready = Math.round(performance.now());
