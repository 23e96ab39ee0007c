"""Train the tokenizer of each model."""

import json

BPE_VOCABULARY = 6144
WORDPIECE_VOCABULARY = 12288
CONTEXT = 128  # tokens that either model can read at once


def train_bpe(sentences):
    """Byte-level BPE in GPT-2's format, as a transformers tokenizer.

    It always puts a space before the first word: a word then has the same token at the start of
    a text as in its middle.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Tokenizer

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=BPE_VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(sentences, trainer)
    model = json.loads(bpe.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    return GPT2Tokenizer(
        vocab=model["vocab"], merges=merges, add_prefix_space=True, model_max_length=CONTEXT
    )


def train_wordpiece(texts):
    """Lower-case WordPiece in BERT's format, as a transformers tokenizer."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertTokenizer

    pieces = BertWordPieceTokenizer(lowercase=True)
    pieces.train_from_iterator(texts, vocab_size=WORDPIECE_VOCABULARY, show_progress=False)
    return BertTokenizer(vocab=pieces.get_vocab(), do_lower_case=True, model_max_length=CONTEXT)


def encode(tokenizer, texts, limit=CONTEXT):
    """One list of token ids per text, with the special tokens; what is beyond `limit` is cut.

    With `limit=None` nothing is cut.
    """
    encodings = tokenizer.backend_tokenizer.encode_batch(texts)
    return [encoding.ids[:limit] for encoding in encodings]
