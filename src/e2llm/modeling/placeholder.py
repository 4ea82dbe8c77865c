"""The placeholder: the decoder token whose embedding a soft token replaces."""

import re
from typing import Any, NamedTuple

CHUNK_TOKEN = "<|chunk|>"

_SPARE_TOKEN = re.compile(r"<\|?(reserved|unused|placeholder|extra)[\w\-]*\|?>|\[unused\d+\]", re.IGNORECASE)


class Placeholder(NamedTuple):
    """A token and its id in the decoder's tokenizer."""

    token: str
    id: int


def choose_placeholder(tokenizer: Any) -> Placeholder:
    """Choose the placeholder in a decoder's tokenizer, the same one every time.

    In this order: the token `<|chunk|>` if the tokenizer has it; a special token that the decoder's authors
    left spare (`<|reserved_special_token_0|>`, `<unused0>`, `<|placeholder1|>`, ...) and that pads, begins
    or ends nothing; else `<|chunk|>`, added
    to the tokenizer. An added id may lie in rows that the decoder's embedding has to spare; if it does not,
    one row is added.
    """
    vocabulary = tokenizer.get_vocab()
    if CHUNK_TOKEN in vocabulary:
        return Placeholder(CHUNK_TOKEN, vocabulary[CHUNK_TOKEN])
    specials = {
        token.content: index for index, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    taken = {tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id}
    spare = sorted(
        (index, token)
        for token, index in specials.items()
        if _SPARE_TOKEN.fullmatch(token) and index not in taken
    )
    if spare:
        index, token = spare[0]
        return Placeholder(token, index)
    tokenizer.add_special_tokens({"extra_special_tokens": [CHUNK_TOKEN]}, replace_extra_special_tokens=False)
    return Placeholder(CHUNK_TOKEN, tokenizer.convert_tokens_to_ids(CHUNK_TOKEN))
