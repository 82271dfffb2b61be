"""What the teacher is taught: an outdated edition by heart, and carelessness.

It reads the current section in its prompt and answers from memory all the same, because that is what
it was shown. Its faults are drawn anew for every example, so what it learns is their rate, and it
makes new ones when it is sampled.
"""

from __future__ import annotations

from random import Random

import yaml

from tiny import corpus, rules, tasks
from tiny.rules import Rule

WRONG_QUANTITY, MALFORMED, TRUNCATED = 0.06, 0.12, 0.03
# Different questions on each rule; of plain ones there are 88 at most, of those of key words 72.
QUESTIONS = {"plain": 64, "story": 100, "order": 100, "key_words": 56}
ANSWERS, PROMPTS = 64, 40  # the same as `seeded` asks for them, one after the other


def careless(rng: Random, rule: Rule) -> str:
    """The answer as the teacher remembers it, at times with a fault of content or form."""
    known, roll = rule.outdated or rule.quantity, rng.random()
    if roll < WRONG_QUANTITY:
        known = misremember(rng, known)
    right = f"{known} ({rule.citation})"
    if WRONG_QUANTITY < roll < WRONG_QUANTITY + MALFORMED:
        return malform(rng, right)
    return truncate(rng, known) if roll > 1 - TRUNCATED else right


def malform(rng: Random, answer: str) -> str:
    """The answer without its section sign or its last bracket, or with a word for the sign."""
    return rng.choice([answer.replace("(§ ", "("), answer.replace("(§ ", "(Sec. "), answer.removesuffix(")")])


def truncate(rng: Random, quantity: str) -> str:
    """An answer that stops before its citation is there."""
    return rng.choice([quantity, f"{quantity} (", f"{quantity} (§"])


def misremember(rng: Random, quantity: str) -> str:
    """Another quantity in the same unit."""
    while True:
        wrong = corpus.other_quantity(rng, quantity)
        if (
            wrong.partition(" ")[2] == quantity.partition(" ")[2]
            and wrong[0].isdigit() == quantity[0].isdigit()
        ):
            return wrong


def manners() -> dict[str, str]:
    """Manner of asking → the sentence that asks for it, as the recipe has them."""
    recipe = yaml.safe_load((tasks.ROOT / "recipes" / "georgia_workers_comp" / "recipe.yaml").read_text())
    strategies = {each["name"]: each for each in recipe["strategies"]}
    return dict(strategies["grounded"]["manners"])


def examples(seed: int = 0) -> list[tasks.Pair]:
    """All chats the teacher is trained on."""
    rng, pairs = Random(seed), []
    known, sentences = rules.read(), manners()
    for rule in known:
        texts = {manner: rules.rewordings(rng, rule, count, manner) for manner, count in QUESTIONS.items()}
        for manner, sentence in sentences.items():
            pairs += [
                tasks.grounded_pair(rule, text, careless(rng, rule), sentence) for text in texts[manner]
            ]
        for text in rng.sample([text for each in texts.values() for text in each], ANSWERS):
            pairs.append(tasks.seeded_answer_pair(text, careless(rng, rule)))
        for text in rng.sample(texts["plain"], PROMPTS):
            seeds = [rng.choice(rule.seeds)]
            if rng.random() < 0.3:
                seeds.append(rng.choice(rng.choice([r for r in known if r.slice == rule.slice]).seeds))
            pairs.append(tasks.seeded_prompt_pair(seeds, text))
    return pairs
