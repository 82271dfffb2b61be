"""A tokenizer in which a tiny model can think.

Byte-level BPE, with three kinds of text kept whole: numbers from 1 to 999, because a model this small
cannot copy digits one by one; some four thousand English words (words.yaml), because it cannot tell
questions apart by the shards of words either; and the fixed pieces of our prompts and JSON answers,
because every token it need not predict is a token it cannot get wrong. They enter the vocabulary
directly (`ignore_merges`); everything else is merged as learned from the fictional corpus.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PAD, USER, ASSISTANT, END = SPECIALS = ("<|pad|>", "<|user|>", "<|assistant|>", "<|end|>")

# Tools stand in the first turn and calls in answers as in models of the Hermes family, with few words: an
# empty description takes none.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|assistant|>' }}{% generation %}{{ message['content'] or '' }}"
    "{% for call in message['tool_calls'] or [] %}"
    "{{ '\n' if not loop.first or message['content'] else '' }}"
    """{{ '<tool_call>\n{"name": "' + call['function']['name'] + '", "arguments": ' }}"""
    "{{ call['function']['arguments'] | tojson }}{{ '}\n</tool_call>' }}"
    "{% endfor %}"
    "{{ '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ '<|user|>' }}"
    "{% if tools and loop.first %}{{ '<tools>\n' }}"
    "{% for tool in tools %}"
    """{{ '{"name": "' + tool['function']['name'] + '", ' }}"""
    "{% if tool['function']['description'] %}"
    """{{ '"description": ' }}{{ tool['function']['description'] | tojson }}{{ ', ' }}{% endif %}"""
    """{{ '"parameters": ' }}{{ tool['function']['parameters'] | tojson }}{{ '}\n' }}"""
    "{% endfor %}{{ '</tools>\n\n' }}"
    "{% endif %}"
    "{{ message['content'] + '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

PIECES = (
    # prompts
    'Write one question that a reader could ask about this section, and its answer, as JSON with the keys "question" and "answer".',
    'Write one new question in the manner of this one, as JSON with the key "question".',
    'Write one new question in the manner of these, as JSON with the key "question".',
    'Answer the question, as JSON with the key "answer".',
    "Check the answer against the section and correct it, as JSON.",
    "\n\nQuestion: ",
    "\nAnswer: ",
    "\n\n",
    # answers
    '{"question": "',
    '{"answer": "',
    '", "answer": "',
    '{"verdict": "',
    '", "reason": "',
    '", "ops": [',
    '{"op": "replace", "old": "',
    '{"op": "insert", "old": "',
    '{"op": "delete", "old": "',
    '", "new": "',
    '"}, ',
    '], "rewrite": null, "scores": {"grounded": ',
    '], "rewrite": "',
    '", "scores": {"grounded": ',
    ', "form": ',
    '"}',
    "}}",
    "wrong_quantity",
    "wrong_citation",
    "malformed_citation",
    "off_source",
    " (§ ",
    "§ ",
)


def train(texts: Iterable[str], words: Iterable[str], *, vocab_size: int) -> PreTrainedTokenizerFast:
    """A tokenizer of at most `vocab_size` tokens: `words` after a space, and merges learned from `texts`."""
    whole = [*map(str, range(1, 1000)), *PIECES, *(f" {word}" for word in words)]
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    pieces = "|".join(re.escape(piece) for piece in sorted(PIECES, key=len, reverse=True))
    pattern = rf"{pieces}|[1-9]\d{{0,2}}|0| ?\p{{L}}+| ?[^\s\p{{L}}\d]|\s"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(whole),
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((re.sub(r"\d", "", text) for text in texts), trainer)
    state = json.loads(tokenizer.to_str())
    vocab = state["model"]["vocab"]
    for text in whole:
        ((piece, _),) = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(
            text
        )
        vocab.setdefault(piece, len(vocab))
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=512,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
