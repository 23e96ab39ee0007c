"""Between texts and token ids: prompts, completions, and which tokens end a text."""

from engine.common import UserError
from engine.model.architecture import context_length, vocabulary_size


def end_ids(model, tokenizer) -> list[int]:
    """The tokens that end a text: the tokenizer's own, and those of the model's generation_config,
    where Gemma, Llama 3 and Qwen name a second one. TRL goes by the same ids."""
    named = model.generation_config.eos_token_id
    named = named if isinstance(named, list) else [named]
    return list(dict.fromkeys([tokenizer.eos_token_id, *(i for i in named if i is not None)]))


def tokenize_prompts(prompts, tokenizer, model, max_new_tokens=0) -> list[list[int]]:
    """The token ids of each prompt, which a completion can follow: without the end-of-text token
    that some tokenizers put behind a text.

    Args:
        prompts: list of strings.
        max_new_tokens: of the longest completion.

    Raises:
        UserError: a prompt has no tokens, or tokens that the model does not know, or it does not
            fit into the model's context with its completion.
    """
    prompts = list(prompts)
    if not prompts:  # of several processes one may have no rows
        return []
    prompt_ids = tokenizer(prompts)["input_ids"]
    if added := _added_behind(prompts[0], tokenizer):
        prompt_ids = [ids[:-added] for ids in prompt_ids]
    lengths = [len(ids) for ids in prompt_ids]
    known = vocabulary_size(model.config)
    for prompt, ids in zip(prompts, prompt_ids):
        if not ids or max(ids) >= known:
            what = "tokens that the model has no embedding for" if ids else "no tokens"
            raise UserError(f"The prompt '{prompt[:40]}' has {what}: leave it out.")
    tokens = max(lengths)
    limit = context_length(model)
    if tokens + max_new_tokens > limit:
        longest = prompts[lengths.index(tokens)]
        raise UserError(
            f"The prompt '{longest[:40]}…' has {tokens} tokens; with {max_new_tokens} new "
            f"ones it exceeds the model's context of {limit}. Shorten it, or lower "
            "--max_completion_length of train.py, --max_new_tokens of evaluate.py."
        )
    return prompt_ids


def _added_behind(text, tokenizer):
    """How many tokens the tokenizer puts behind a text."""
    bare = tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = tokenizer(text)["input_ids"]
    for before in range(len(whole) - len(bare) + 1):
        if whole[before : before + len(bare)] == bare:
            return len(whole) - len(bare) - before
    return 0


def decode_behind(tokenizer, prompt_ids, token_ids, skip_special_tokens=True) -> list[str]:
    """Token ids as the texts that they are behind their prompts.

    Read on their own, those of a Llama 2 would lose the blank in front of their first word. So each
    is read with its prompt, which is then cut off.

    Args:
        prompt_ids, token_ids: lists of B lists of token ids.
    """

    def decode(rows):
        return tokenizer.batch_decode(rows, skip_special_tokens=skip_special_tokens)

    prompts = decode(prompt_ids)
    wholes = decode([[*start, *ids] for start, ids in zip(prompt_ids, token_ids)])
    return [
        whole[len(prompt) :] if whole.startswith(prompt) else decode([ids])[0]
        for prompt, whole, ids in zip(prompts, wholes, token_ids)
    ]


def decode_completions(model, tokenizer, prompt_ids, completion_ids) -> list[str]:
    """Completions as texts that join to their prompts, without the token that ends them.

    Args:
        prompt_ids, completion_ids: lists of B lists of token ids.
    """
    ends = end_ids(model, tokenizer)
    bodies = [ids[:-1] if ids and ids[-1] in ends else ids for ids in completion_ids]
    return decode_behind(tokenizer, prompt_ids, bodies)
