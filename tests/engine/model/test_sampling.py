import contextlib
import copy
from types import SimpleNamespace

import pytest
import torch

from engine.common import UserError
from engine.model import sampling
from engine.model.architecture import has_fast_rollout
from engine.model.loading import add_lora
from engine.model.sampling import (
    Rows,
    Sampling,
    _decode,
    _decode_recorded,
    _scoring_error,
    generate,
    require_same_scores,
)
from engine.model.scoring import Models, compute_log_probs, pad

PROMPTS = [[3, 1, 4], [1], [5, 9, 2, 6, 5]]


@pytest.mark.parametrize("small_model", ["small_gpt2", "small_bloom"])
def test_samples_follow_the_distribution_of_the_model(request, small_model, token_ids):
    """4,000 samples of two tokens against exact probabilities, by a chi-squared statistic."""
    model, count = request.getfixturevalue(small_model), 4000
    assert has_fast_rollout(model) == (small_model == "small_gpt2")
    prompt, temperature = [3, 1, 4], 1.3
    samples, _ = generate(model, token_ids, [prompt] * count, Sampling(2, temperature, 1))
    with torch.no_grad():
        first = (model(torch.tensor([prompt])).logits[0, -1] / temperature).softmax(-1)
        after = [
            (model(torch.tensor([prompt + [a]])).logits[0, -1] / temperature).softmax(-1)
            for a in range(11)
        ]
    expected = {(0,): first[0].item()}  # an end of text ends the completion
    expected |= {(a, b): (first[a] * after[a][b]).item() for a in range(1, 11) for b in range(11)}
    assert sum(expected.values()) == pytest.approx(1, abs=1e-5)
    observed = dict.fromkeys(expected, 0)
    for sample in samples:
        observed[tuple(sample)] += 1
    large = [key for key, p in expected.items() if p * count >= 5]
    rest = 1 - sum(expected[key] for key in large)
    statistic = sum((observed[k] - count * expected[k]) ** 2 / (count * expected[k]) for k in large)
    others = count - sum(observed[key] for key in large)
    statistic += (others - count * rest) ** 2 / (count * rest)
    degrees = len(large)
    assert degrees > 20
    assert statistic < degrees + 4 * (2 * degrees) ** 0.5  # four standard deviations


def test_samples_do_not_depend_on_padding_or_on_the_batch(small_gpt2, token_ids):
    """At a temperature near 0 sampling is greedy, so each row can be checked alone."""
    together, _ = generate(small_gpt2, token_ids, PROMPTS, Sampling(6, 1e-4))
    alone = [
        generate(small_gpt2, token_ids, [prompt], Sampling(6, 1e-4))[0][0] for prompt in PROMPTS
    ]
    assert together == alone


def test_a_completion_ends_with_its_end_of_text(small_gpt2, token_ids):
    samples, _ = generate(small_gpt2, token_ids, PROMPTS * 50, Sampling(8))
    ended = [s for s in samples if 0 in s]
    assert ended and all(s.index(0) == len(s) - 1 for s in ended)
    assert all(len(s) == 8 for s in samples if 0 not in s)


def test_a_model_without_positions_is_sampled_and_scored(small_bloom, token_ids):
    def sample(seed, rows=None):
        return generate(small_bloom, token_ids, PROMPTS * 4, Sampling(6, 0.7, seed), rows)

    ids, log_probs = sample(0)
    assert (ids, log_probs) == sample(0)
    assert ids != sample(1).completion_ids != sample(0, Rows(12, 24)).completion_ids
    for prompt, row, values in zip(PROMPTS * 4, ids, log_probs, strict=True):
        with torch.no_grad():
            logits = small_bloom(torch.tensor([prompt + row])).logits[0, len(prompt) - 1 : -1]
        want = (logits / 0.7).log_softmax(-1).gather(1, torch.tensor(row)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(values), want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_rollout_knows_the_log_probs_of_the_training_pass(policy, temperature):
    model, tokenizer = policy
    prompt_ids = tokenizer(["It was", "My friends and I", "The"] * 8)["input_ids"]
    ids, log_probs = generate(model, tokenizer, prompt_ids, Sampling(24, temperature))
    prompts, prompt_mask = pad(prompt_ids, tokenizer.pad_token_id, "left")
    completions, mask = pad(ids, tokenizer.pad_token_id, "right")
    both, masks = torch.cat([prompts, completions], 1), torch.cat([prompt_mask, mask], 1)
    with torch.no_grad():
        want = compute_log_probs(model, both, masks, completions.shape[1], temperature)
    assert list(map(len, log_probs)) == list(map(len, ids))
    got = torch.tensor([value for row in log_probs for value in row])
    torch.testing.assert_close(got, want[mask.bool()], atol=1e-4, rtol=0)


def with_adapter(model):
    torch.manual_seed(0)
    lora = add_lora(copy.deepcopy(model)).eval()
    for name, weight in lora.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    return lora


@torch.no_grad()
def assert_same_rollouts(model, tokenizer, prompts, batches, within=1e-5):
    """Today's loop and the step that a GPU repeats: same tokens, log-probabilities `within` nats.

    Args:
        batches: (`Sampling`, number of prompts), sampled one after the other.
    """
    for settings, count in batches:
        asked = model, tokenizer, prompts[:count], settings, Rows(2, 20)
        torch.manual_seed(3)  # for a seed of None
        want_ids, want = _decode(*asked)
        torch.manual_seed(3)
        ids, log_probs = _decode_recorded(*asked)
        assert ids[:, : want_ids.shape[1]].equal(want_ids)
        assert (ids[:, want_ids.shape[1] :] == tokenizer.pad_token_id).all()
        torch.testing.assert_close(log_probs[:, : want.shape[1]], want, atol=within, rtol=0)


BATCHES = (  # one shape after the other, and back
    (Sampling(12), 3),
    (Sampling(12, seed=5), 3),
    (Sampling(12, 0.7, seed=5), 3),
    (Sampling(1), 3),
    (Sampling(9, seed=None), 2),
    (Sampling(12, prompt_width=9), 3),
    (Sampling(12), 3),
)


@pytest.mark.parametrize("lora", [False, True])
def test_the_step_that_a_gpu_repeats_samples_the_same(small_gpt2, token_ids, lora, monkeypatch):
    monkeypatch.setattr(sampling, "_rollout", None)
    model = with_adapter(small_gpt2) if lora else small_gpt2
    assert_same_rollouts(model, token_ids, PROMPTS, BATCHES)


def test_it_samples_the_same_from_a_model_that_writes(policy, monkeypatch):
    model, tokenizer = policy
    monkeypatch.setattr(sampling, "_rollout", None)
    prompts = tokenizer(["It was", "My friends and I", "The"])["input_ids"]
    assert_same_rollouts(model, tokenizer, prompts, [(Sampling(16, 1.2), 3)])


# On a GPU a sum of another length rounds otherwise. So the first prompt has eight tokens, as wide
# as the recorded step makes all prompts: the loop then has the same columns.
ON_GPU = {"within": 1e-4}
EIGHT_WIDE = [[3, 1, 4, 1, 5, 9, 2, 6], *PROMPTS[1:]]


@pytest.mark.gpu
@pytest.mark.parametrize("lora", [False, True])
def test_a_recorded_step_samples_the_same(small_gpt2, token_ids, lora, monkeypatch):
    """The same on a GPU, where the step is a graph; after a change of the weights too."""
    monkeypatch.setattr(sampling, "_rollout", None)
    model = (with_adapter(small_gpt2) if lora else small_gpt2).cuda()
    assert_same_rollouts(model, token_ids, EIGHT_WIDE, BATCHES, **ON_GPU)
    graph = sampling._rollout.graph
    assert isinstance(graph, torch.cuda.CUDAGraph)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.9)
    assert_same_rollouts(model, token_ids, EIGHT_WIDE, BATCHES[-1:], **ON_GPU)
    assert sampling._rollout.graph is graph


@pytest.mark.gpu
def test_a_gpu_samples_by_the_recorded_step_and_keeps_one_shape(policy, monkeypatch):
    """What `generate` takes; and memory does not grow with the shapes that were asked for: less
    than cuBLAS keeps for one more stream, 8 MiB and more."""
    monkeypatch.setattr(sampling, "_rollout", None)
    model, tokenizer = copy.deepcopy(policy[0]).cuda(), policy[1]
    prompts = tokenizer(["It was", "My friends and I", "The"] * 8)["input_ids"]
    prompts[0] = (prompts[0] * 8)[:8]
    assert_same_rollouts(model, tokenizer, prompts, [(Sampling(32), 24)], **ON_GPU)
    monkeypatch.setattr(sampling, "_decode", None)  # not by the loop
    taken = []
    for count in (24, 20, 16, 12, 24):
        ids, log_probs = generate(model, tokenizer, prompts[:count], Sampling(32))
        assert list(map(len, ids)) == list(map(len, log_probs))
        taken.append(torch.cuda.memory_allocated())
    assert taken[-1] <= taken[0] + 2**20


@torch.no_grad()
def test_a_rollout_stays_while_shape_and_weights_do(small_gpt2, token_ids, monkeypatch):
    """A prompt that is longer than the run's longest, or a model that has moved, has another."""
    monkeypatch.setattr(sampling, "_rollout", None)
    other = copy.deepcopy(small_gpt2)
    rollouts = []
    for model, prompts, settings in (
        (small_gpt2, PROMPTS, Sampling(6)),
        (small_gpt2, [[3], [1], [4]], Sampling(6, seed=1)),  # 8 tokens wide, too
        (small_gpt2, PROMPTS, Sampling(6, prompt_width=9)),
        (small_gpt2, PROMPTS[:2], Sampling(6, prompt_width=9)),
        (other, PROMPTS[:2], Sampling(6, prompt_width=9)),
    ):
        _decode_recorded(model, token_ids, prompts, settings, Rows(0, 3))
        rollouts.append(sampling._rollout)
    assert [rollout.shape.width for rollout in rollouts] == [8, 8, 16, 16, 16]
    assert rollouts[0] is rollouts[1] and len(set(map(id, rollouts))) == 4
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(0.5)  # as a training step does: in place
    got, _ = _decode_recorded(
        other, token_ids, PROMPTS[:2], Sampling(6, prompt_width=9), Rows(0, 3)
    )
    want, _ = _decode(other, token_ids, PROMPTS[:2], Sampling(6), Rows(0, 3))
    assert sampling._rollout is rollouts[-1] and got[:, : want.shape[1]].equal(want)


@torch.no_grad()
def test_whether_all_texts_have_ended_is_asked_seldom(small_gpt2, token_ids, monkeypatch):
    monkeypatch.setattr(sampling, "_rollout", None)
    monkeypatch.setattr(sampling, "end_ids", lambda *_: list(range(11)))  # every text has one token
    ids, log_probs = _decode_recorded(small_gpt2, token_ids, PROMPTS, Sampling(20), Rows(0, 3))
    assert ids.shape == log_probs.shape == (3, sampling.ASK_EVERY)
    assert (ids[:, 1:] == token_ids.pad_token_id).all()


def test_seed_repeats_and_differs(policy):
    model, tokenizer = policy
    ids = tokenizer(["This movie was"] * 4)["input_ids"]
    first = generate(model, tokenizer, ids, Sampling(8, seed=1))
    assert first == generate(model, tokenizer, ids, Sampling(8, seed=1))
    assert first != generate(model, tokenizer, ids, Sampling(8, seed=2))
    assert len({tuple(ids) for ids in first.completion_ids}) > 1  # rows draw their own numbers


def test_processes_sample_their_parts_of_one_batch(policy):
    model, tokenizer = policy
    prompts = tokenizer(["It was", "The plot", "I", "My friends and I"])["input_ids"]

    def sample(prompts, rows):
        torch.manual_seed(3)
        return generate(model, tokenizer, prompts, Sampling(6, seed=None), rows).completion_ids

    together = sample(prompts[:1], Rows(0, 4)) + sample(prompts[1:], Rows(1, 4))
    assert together == sample(prompts, Rows(0, 4)) == sample(prompts, None)


def small_of(kind, **sizes):
    """A random model of any architecture with a vocabulary of eleven tokens; 0 ends a text."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = AutoConfig.for_model(kind, vocab_size=11, **ids, **sizes)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(std=0.5)
    return model


HIDDEN = {"hidden_size": 16, "num_hidden_layers": 2}
HEADS = HIDDEN | {"num_attention_heads": 2, "intermediate_size": 16}
ARCHITECTURES = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2},
    "openai-gpt": {"n_embd": 16, "n_layer": 2, "n_head": 2},
    "bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2},
    "llama": HEADS | {"num_key_value_heads": 1},
    "gpt_neox": HEADS,
    "opt": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 16}
    | {"word_embed_proj_dim": 16},
    "mamba": HIDDEN | {"state_size": 4},
}


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_model_that_scores_what_it_sampled_is_let_through(kind, token_ids):
    model = small_of(kind, **ARCHITECTURES[kind])
    state = torch.get_rng_state()
    models = Models(model, model, token_ids)
    require_same_scores(models, PROMPTS, Sampling(12, 0.7))
    assert torch.get_rng_state().equal(state)  # no draw of the run's is another one
    assert _scoring_error(model, token_ids, PROMPTS, Sampling(12, 0.7)) < 1e-4


@pytest.mark.parametrize("prompts", [PROMPTS, [[3], [1]]])
def test_a_model_that_reads_padding_is_refused(token_ids, prompts):
    """RWKV; with prompts of one length too, where the padding is behind the texts alone."""
    model = small_of("rwkv", **HIDDEN, attention_hidden_size=16, context_length=64)
    models = Models(model, model, token_ids)
    with pytest.raises(
        UserError, match=r"of the kind rwkv cannot .* scored [\d.]+ nats a token off"
    ):
        require_same_scores(models, prompts, Sampling(12))


def test_the_difference_is_that_of_sampling_and_scoring(small_gpt2, token_ids, monkeypatch):
    """Half a nat in one text of four is half a nat; rounding is none."""
    score = sampling.score_completions

    def off(*args):
        values, mask = score(*args)
        values[2] += 0.5
        return values, mask

    models = Models(small_gpt2, small_gpt2, token_ids)
    require_same_scores(models, PROMPTS, Sampling(1))
    monkeypatch.setattr(sampling, "score_completions", off)
    assert _scoring_error(*models[::2], PROMPTS, Sampling(8)) == pytest.approx(0.5, abs=1e-4)
    with pytest.raises(UserError, match="0.5 nats a token off"):
        require_same_scores(models, PROMPTS, Sampling(8))


class FakeCuda:
    """As much of torch.cuda as recording needs: which stream is current, and where work goes."""

    def __init__(self, monkeypatch, ends_well=True):
        self.current, self.created, self.used, self.ends_well = "main", [], [], ends_well
        for name in ("Stream", "current_stream", "set_stream", "stream", "graph"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: "a graph")
        monkeypatch.setattr(sampling._Rollout, "refused", False)
        sampling._side_stream.cache_clear()

    def Stream(self, device):
        self.created.append(SimpleNamespace(wait_stream=lambda other: None))
        return self.created[-1]

    def current_stream(self):
        return SimpleNamespace(wait_stream=lambda other: None, name=self.current)

    def set_stream(self, stream):
        self.current = stream.name

    @contextlib.contextmanager
    def stream(self, stream):
        self.used.append(stream)
        before, self.current = self.current, "side"
        yield
        self.current = before

    @contextlib.contextmanager
    def graph(self, graph, stream, capture_error_mode):
        with self.stream(stream):
            try:
                yield
            finally:
                if not self.ends_well:  # as torch.cuda.graph: the stream stays the side one
                    raise RuntimeError("operation failed due to a previous error during capture")


@pytest.fixture
def rollout_of(small_gpt2):
    def make(rows):
        weights = tuple(weight.data_ptr() for weight in small_gpt2.parameters())
        return sampling._Rollout(small_gpt2, sampling._Shape(rows, 8, 4, 1.0, (0,), 0, weights))

    yield make
    sampling._side_stream.cache_clear()


@torch.no_grad()
def test_every_shape_is_recorded_on_one_stream(rollout_of, monkeypatch):
    cuda = FakeCuda(monkeypatch)
    for rows in (3, 2):
        assert rollout_of(rows)._recorded() == "a graph"
    (stream,) = cuda.created
    assert cuda.used == [stream] * 4 and cuda.current == "main"  # warm-up and recording, twice


@torch.no_grad()
def test_a_gpu_that_records_no_step_samples_step_by_step(rollout_of, monkeypatch, capsys):
    """It says so once, and goes on where it was."""
    cuda = FakeCuda(monkeypatch, ends_well=False)
    rollout, warm_up = rollout_of(3), sampling.WARM_UP
    step = rollout._advance

    def fails_where_recorded():
        nonlocal warm_up
        warm_up -= 1
        step()
        if warm_up < 0:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    rollout._advance = fails_where_recorded
    assert rollout._recorded() is None and cuda.current == "main"
    assert rollout_of(2)._recorded() is None and len(cuda.used) == 2
    assert capsys.readouterr().err == (
        "sampling step by step: this GPU does not record a step (operation not permitted when "
        "stream is capturing)\n"
    )
