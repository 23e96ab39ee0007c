"""train.py with `--generation vllm` or `vllm_colocate`, and a small stand-in for vLLM itself.

    python tests/vllm_stand_in.py OPTION…

TRL's client, its weight updates and its importance correction are the real ones. The stand-in
answers the HTTP requests of vLLM 0.30 (or is its `LLM`) with our own sampling, in another
batch and with log-probabilities rounded to bfloat16; weights go by memory, not by NCCL. So it
shows what this project asks of vLLM, and nothing of vLLM. For test_several_processes.py.
"""

import http.server
import json
import sys
import threading
import types
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from engine.model.loading import load_model
from engine.model.sampling import Sampling, generate
from engine.options import PRESETS


class Engine:
    """A policy of its own, whose weights come from the trainer."""

    def __init__(self):
        self.model, self.tokenizer = load_model(PRESETS["tiny"]["model_name"], "cpu")
        self.requests = []  # what was asked for
        self.calls = 0

    def sample(self, prompts, n, temperature, max_tokens):
        """[(prompt ids, completion ids, log-probabilities)], n for each prompt."""
        self.calls += 1
        rows = [prompt for prompt in prompts for _ in range(n)]
        ids, log_probs = generate(
            self.model, self.tokenizer, rows, Sampling(max_tokens, temperature, self.calls)
        )
        rounded = [torch.tensor(row).bfloat16().tolist() for row in log_probs]
        return list(zip(rows, ids, rounded))

    @torch.no_grad()
    def load_weights(self, named):
        own = dict(self.model.named_parameters())
        for name, tensor in named:
            own[name].copy_(tensor)


ENGINE = None


class Handler(http.server.BaseHTTPRequestHandler):
    """The requests that TRL's client makes."""

    ANSWERS = {
        "/health": {},
        "/v1/models": {"data": [{"id": "tiny"}]},
        "/get_world_size": {"world_size": 1},
        "/server_info": {
            "vllm_config": {
                "weight_transfer_config": {"backend": "nccl"},
                "model_config": {"logprobs_mode": "processed_logprobs"},
            }
        },
        "/reset_prefix_cache": {"success": True},
    }

    def do_GET(self):
        self.answer(self.ANSWERS[self.path.split("?")[0]])

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        ENGINE.requests.append(self.path)
        self.answer(
            complete(body) if self.path == "/v1/completions" else self.ANSWERS.get(self.path, {})
        )

    def answer(self, value):
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


def complete(body):
    """The answer of /v1/completions."""
    sampled = ENGINE.sample(body["prompt"], body["n"], body["temperature"], body["max_tokens"])
    choices = []
    for prompt, ids, log_probs in sampled:
        tokens = [f"token_id:{i}" for i in ids]
        tops = [{token: value} for token, value in zip(tokens, log_probs)]
        found = {"tokens": tokens, "token_logprobs": log_probs, "top_logprobs": tops}
        choices.append({"prompt_token_ids": prompt, "token_ids": ids, "logprobs": found})
    return {"choices": choices}


class LLM:
    """vLLM in the training process: `vllm_colocate`."""

    def __init__(self, **settings):
        assert settings["logprobs_mode"] == "processed_logprobs"
        runner = SimpleNamespace(model_runner=SimpleNamespace(model=ENGINE))
        executor = SimpleNamespace(driver_worker=runner)
        model = SimpleNamespace(max_model_len=128)
        self.llm_engine = SimpleNamespace(model_executor=executor, model_config=model)

    def generate(self, prompts, sampling_params, use_tqdm):
        asked = sampling_params
        ENGINE.requests.append("generate")
        rows = [prompt["prompt_token_ids"] for prompt in prompts]
        sampled = ENGINE.sample(rows, asked.n, asked.temperature, asked.max_tokens)
        return [
            SimpleNamespace(
                prompt_token_ids=prompt,
                outputs=[
                    SimpleNamespace(
                        token_ids=ids,
                        logprobs=[
                            {token: SimpleNamespace(logprob=value, rank=1)}
                            for token, value in zip(ids, log_probs)
                        ],
                    )
                ],
            )
            for prompt, ids, log_probs in sampled
        ]

    def reset_prefix_cache(self):
        ENGINE.requests.append("reset_prefix_cache")


def broadcast(iterator, group, src, post_iter_func):
    ENGINE.load_weights(iterator)


def install():
    """A package `vllm` with the names that TRL imports."""
    nowhere = {"LLM": LLM, "RequestOutput": object, "SamplingParams": SimpleNamespace}
    transfer = "vllm.distributed.weight_transfer"
    modules = {
        "vllm": {"__version__": "0.30.0", "__file__": __file__, **nowhere},
        "vllm.sampling_params": {"StructuredOutputsParams": SimpleNamespace},
        "vllm.utils": {},
        "vllm.utils.network_utils": {"get_ip": lambda: "127.0.0.1"},
        "vllm.distributed": {},
        transfer: {},
        f"{transfer}.nccl_common": {"trainer_init": lambda info: object()},
        f"{transfer}.packed_tensor": {"packed_nccl_broadcast_producer": broadcast},
    }
    for name, contents in modules.items():
        module = types.ModuleType(name)
        module.__spec__, module.__path__ = ModuleSpec(name, None), []
        vars(module).update(contents)
        sys.modules[name] = module


def main():
    global ENGINE
    install()
    from trl.generation.vllm_client import VLLMClient

    import train

    ENGINE = Engine()
    # The client asks for CUDA before it opens the group of the weights.
    VLLMClient.init_communicator = lambda self, device: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    train.main()
    print("asked:", *sorted(set(ENGINE.requests)))


if __name__ == "__main__":
    main()
