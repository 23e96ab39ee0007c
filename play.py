"""Type a prompt, and read what the base model and trained policies make of it, side by side.

    python play.py outputs/run
    python play.py outputs/run outputs/other --port 7861

opens a page in the browser. The page lives on this machine alone: it is served to no other, and
loads nothing from the network. It needs Gradio: pip install -r requirements-play.txt
"""

import html
import importlib.util
import os
import random
import sys

from engine.common import UserError, first_line, quiet_libraries, short_path
from engine.model.devices import tune_cpu
from engine.options import OneLineParser
from engine.pages.report import model_of, run_settings


def load_policies(names):
    """The base model and the policies of the page.

    Args:
        names: folders of runs, or names of models. The base of the first is that of the page.

    Returns:
        ({title: model}, reference, tokenizer). The reference is the base; where it is unknown, the
        first model.

    Raises:
        UserError: a model cannot be loaded, or has another vocabulary than the first.
    """
    from engine.pages.report import base_name
    from evaluate import load_trained, load_with_base

    folders = [model_of(name) for name in names]
    first, base, tokenizer = load_with_base(folders[0])
    if base is None:
        base, policies = first, {f"reference: {names[0]}": first}
    else:
        policies = {f"base: {short_path(base_name(folders[0]))}": base, names[0]: first}
    for name, folder in zip(names[1:], folders[1:]):
        policies[name] = load_trained(folder, tokenizer, folders[0])
    return policies, base, tokenizer


def seed_of(text):
    """The seed that was typed; any, where none was.

    Raises:
        UserError: it is no whole number.
    """
    if not text.strip():
        return random.randrange(10**6)
    if not text.strip().isdecimal():
        raise UserError("The seed must be a whole number, or empty.")
    return int(text) % 2**31


def write(policies, ref_model, tokenizer, prompt, temperature, length, samples, best_of, seed):
    """Completions of one prompt by every policy.

    Args:
        policies: {title: model}.
        ref_model, tokenizer: the reference and the tokenizer of them all.
        samples: how many to show of each policy.
        best_of: how many are sampled for each that is shown: the one with the highest sentiment.

    Returns:
        {title: list of `samples` lists of `best_of` samples of `evaluate_model`, the best first}.
        Each also has `stars`, its five star probabilities, and the best one `tokens`.

    Raises:
        UserError: the prompt is empty or too long.
    """
    from engine.pages.token_view import describe_tokens
    from evaluate import evaluate_model
    from sentiment import get_star_probs

    if not prompt.strip():
        raise UserError("The prompt is empty. Type the beginning of a text.")
    results = {}
    for title, model in policies.items():
        rows = evaluate_model(
            model, tokenizer, [prompt], ref_model, samples * best_of, length, temperature, seed
        )["samples"]
        for row, stars in zip(rows, get_star_probs([row["completion"] for row in rows]).tolist()):
            row["stars"] = stars
        groups = [rows[i : i + best_of] for i in range(0, len(rows), best_of)]
        groups = [sorted(group, key=lambda row: -row["sentiment"]) for group in groups]
        best = [group[0] for group in groups]
        prompt_ids = [tokenizer(prompt)["input_ids"]] * len(best)
        ids = [row["ids"] for row in best]
        tokens = describe_tokens(model, ref_model, tokenizer, prompt_ids, ids, temperature)
        for row, described in zip(best, tokens):
            row["tokens"] = described
        results[title] = groups
    return results


def build(names, settings):
    """The page as Gradio's Blocks; `settings` are those of `run_settings`."""
    import gradio as gr

    from engine.pages.play_page import page_of
    from sentiment import load_sentiment_model

    models = load_policies(names)
    load_sentiment_model(settings["sentiment_model"])
    warm, length = settings["temperature"], settings["max_new_tokens"]

    def answer(prompt, temperature, length, samples, best_of, seed):
        try:
            seed = seed_of(seed)
            results = write(*models, prompt, temperature, length, samples, best_of, seed)
        except UserError as error:
            return f'<p role="alert">{html.escape(str(error))}</p>'
        return page_of(results, seed)

    with gr.Blocks(title="play", analytics_enabled=False) as page:
        prompt = gr.Textbox("This movie was", label="prompt", autofocus=True, max_lines=1)
        with gr.Row():
            inputs = [
                gr.Slider(0.1, max(2, warm), warm, step=0.1, label="temperature"),
                gr.Slider(1, max(96, length), length, step=1, label="length (tokens)"),
                gr.Slider(1, 8, 3, step=1, label="samples"),
                gr.Slider(1, 16, 1, step=1, label="best of n"),
                gr.Textbox(label="seed", placeholder="another each time", max_lines=1),
            ]
        button = gr.Button("Write", variant="primary")
        shown = gr.HTML(label="completions")
        gr.on([prompt.submit, button.click], answer, [prompt, *inputs], shown, api_name=False)
    return page


def parse(argv):
    parser = OneLineParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="output folder of train.py, or any model")
    add("--port", type=int, help="of the page; default: the first free one from 7860")
    add("--no_browser", action="store_true", help="only print the address of the page")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    # Set before Gradio is imported: it would report its use, and ask for newer versions.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    if importlib.util.find_spec("gradio") is None:
        sys.exit("play.py needs Gradio: pip install -r requirements-play.txt")
    quiet_libraries()
    tune_cpu()
    try:
        page = build(args.runs, run_settings(*map(model_of, args.runs)))
        launch(page, args.port, args.no_browser)
    except (UserError, OSError) as error:
        sys.exit(f"play.py: {first_line(error)}")


def launch(page, port=None, no_browser=False, block=True):
    """Serve the page to this machine alone; returns its address, or serves until Ctrl+C."""
    import gradio as gr

    from engine.pages.play_page import STYLE

    fonts = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")
    _, address, _ = page.launch(
        share=False,
        server_name="127.0.0.1",
        server_port=port,
        inbrowser=not no_browser,
        prevent_thread_lock=True,
        quiet=True,
        ssr_mode=False,
        footer_links=[],
        theme=gr.themes.Default(font=fonts[0], font_mono=fonts[1]),
        css=STYLE,
    )
    print(f"Open {address} in a browser of this machine; Ctrl+C ends.", flush=True)
    if block:
        page.block_thread()
    return address


if __name__ == "__main__":
    main()
