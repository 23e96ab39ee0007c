"""Type a prompt, and read what the base model and trained policies make of it, side by side.

    python play.py outputs/run
    python play.py outputs/run outputs/other --port 7861

opens a page in the browser. The page lives on this machine alone, unless GRADIO_SERVER_NAME says
otherwise, and loads nothing from the network. It needs Gradio: pip install -r requirements-play.txt
"""

import html
import importlib.util
import os
import random
import sys
from typing import Any, NamedTuple

from engine.common import UserError, first_line, quiet_libraries, short_path
from engine.measuring.metrics import Sample
from engine.measuring.runs import base_name, model_of, run_settings
from engine.model.devices import tune_device
from engine.options import OneLineParser


class Policies(NamedTuple):
    """What the page lets write."""

    models: dict[str, Any]  # title -> model
    ref: Any  # the base of the first run; the first model itself where that is unknown
    tokenizer: Any  # of them all


def load_policies(names: list[str]) -> Policies:
    """The base model and the policies of the page.

    Args:
        names: folders of runs, or names of models. The base of the first is that of the page.

    Raises:
        UserError: a model cannot be loaded, or has another vocabulary than the first.
    """
    from evaluate import load_trained, load_with_base

    folders = [model_of(name) for name in names]
    model, base, tokenizer = load_with_base(folders[0])
    if base is None:
        models = {f"reference: {names[0]}": model}
    else:
        models = {f"base: {short_path(base_name(folders[0]))}": base, names[0]: model}
    for name, folder in zip(names[1:], folders[1:]):
        models[name] = load_trained(folder, tokenizer, folders[0])
    return Policies(models, base or model, tokenizer)


def write(policies: Policies, prompt: str, samples: int, **settings) -> dict[str, list[Sample]]:
    """Completions of one prompt by every policy.

    Args:
        samples: how many of each policy.
        settings: `max_new_tokens`, `temperature` and `seed` of `evaluate_model`.

    Returns:
        {title: samples of `evaluate_model`}. Each also has `tokens`, of `describe_tokens`.

    Raises:
        UserError: the prompt is empty or too long.
    """
    from engine.model.scoring import Models
    from engine.model.texts import tokenize_prompts
    from engine.pages.token_view import describe_tokens
    from evaluate import evaluate_model

    if not prompt.strip():
        raise UserError("The prompt is empty. Type the beginning of a text.")
    _, ref, tokenizer = policies
    prompt_ids = tokenize_prompts([prompt] * samples, tokenizer, ref)
    results = {}
    for title, model in policies.models.items():
        result = evaluate_model(
            model, tokenizer, [prompt], ref_model=ref, samples_per_prompt=samples, **settings
        )
        rows = result["samples"]
        tokens = describe_tokens(
            Models(model, ref, tokenizer),
            prompt_ids=prompt_ids,
            completion_ids=[row["ids"] for row in rows],
            temperature=settings["temperature"],
        )
        results[title] = [row | {"tokens": each} for row, each in zip(rows, tokens)]
    return results


def build(names: list[str], settings: dict[str, Any]):
    """The page as Gradio's Blocks; `settings` are those of `run_settings`."""
    import gradio as gr  # pyright: ignore[reportMissingImports]  # optional

    from engine.pages.play_page import page_of
    from sentiment import load_sentiment_model

    policies = load_policies(names)
    load_sentiment_model(settings["sentiment_model"])
    temperature, length = settings["temperature"], settings["max_new_tokens"]

    def answer(prompt, temperature, length, samples, seed):
        seed = random.randrange(10**6) if seed is None else seed
        sampling = {"max_new_tokens": length, "temperature": temperature, "seed": seed}
        try:
            return page_of(write(policies, prompt, samples, **sampling), seed)
        except UserError as error:
            return f'<p role="alert">{html.escape(str(error))}</p>'

    with gr.Blocks(title="play", analytics_enabled=False) as page:
        prompt = gr.Textbox("This movie was", label="prompt", autofocus=True, max_lines=1)
        with gr.Row():
            inputs = [
                gr.Slider(0.1, max(2, temperature), temperature, step=0.1, label="temperature"),
                gr.Slider(1, max(96, length), length, step=1, label="length (tokens)"),
                gr.Slider(1, 8, 3, step=1, label="samples"),
                gr.Number(
                    label="seed",
                    placeholder="another each time",
                    precision=0,
                    minimum=0,
                    maximum=2**31 - 1,
                ),
            ]
        button = gr.Button("Write", variant="primary")
        shown = gr.HTML(label="completions")
        gr.on(
            [prompt.submit, button.click],
            answer,
            inputs=[prompt, *inputs],
            outputs=shown,
            api_visibility="private",
        )
    return page


def launch(page, port: int | None, no_browser: bool) -> None:
    """Serve the page until Ctrl+C: to this machine alone, or as GRADIO_SERVER_NAME says."""
    from gradio.themes import Default  # pyright: ignore[reportMissingImports]

    from engine.pages.play_page import STYLE

    _, address, _ = page.launch(
        share=False,
        server_name=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),  # a container sets it
        server_port=port,
        inbrowser=not no_browser,
        prevent_thread_lock=True,
        quiet=True,
        ssr_mode=False,
        footer_links=[],
        theme=Default(font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace")),
        css=STYLE,
    )
    print(f"Open {address} in a browser of this machine; Ctrl+C ends.", flush=True)
    page.block_thread()


def parse(argv):
    parser = OneLineParser(description=str(__doc__).split("\n")[0])
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
    tune_device()
    try:
        page = build(args.runs, run_settings(*map(model_of, args.runs)))
        launch(page, args.port, args.no_browser)
    except (UserError, OSError) as error:
        sys.exit(f"play.py: {first_line(error)}")


if __name__ == "__main__":
    main()
