"""A tokenizer without a file, one token a byte: for small networks trained from scratch, and for work offline."""

from __future__ import annotations

from typing import Any

_TEMPLATE = (
    "{% for message in messages %}{{ '<s>' + message['role'] + '\n' + message['content'] + '</s>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)


def byte_tokenizer() -> Any:
    """256 bytes, seven special tokens (pad 0, ``<s>``, ``</s>``, unknown, mask, ``<cls>``, ``<sep>``), a chat template.

    Decoding gives back any text exactly. No special tokens are added.

    Example:
        >>> tokenizer = byte_tokenizer()
        >>> tokenizer("é")["input_ids"], len(tokenizer)  # two bytes
        ([134, 109], 263)
        >>> tokenizer.decode(tokenizer("é")["input_ids"])
        'é'
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>", "<unk>", "<mask>", "<cls>", "<sep>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(special + alphabet)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        cls_token="<cls>",
        sep_token="<sep>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = _TEMPLATE
    return tokenizer
