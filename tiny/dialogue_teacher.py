"""What the teacher of dialogues is taught: both sides of conversations about the town park, and carelessness.

It remembers last year's numbers of some sections and cites those, more often than not, for a whole
conversation. Its other faults are drawn anew: another quantity, another fact of the section, a citation in
bad form, questions about another section, loops, silence, and answers without end.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tiny import park, stories, tasks
from tiny.adapters import Chat
from tiny.park import Park, Section

CONVERSATIONS = {"user": 60, "assistant": 150}  # of each section; finding the fact takes longer to learn
# Of a conversation: about another section, a question that comes again, a silent side, an answer without end.
STRAY, LOOP, SILENT, ENDLESS = 0.04, 0.03, 0.012, 0.012
OLD_NUMBER = 0.55  # of the conversations about a section that has another number now
# Of an answer.
WRONG_QUANTITY, OTHER_FACT, MALFORMED = 0.04, 0.03, 0.03
STORY, ASIDE = 0.5, 0.35  # of first and of later questions: something is told before it is asked
BREAKS = ("; ", ", so ", ": ", " and ")
NOTHING = " "  # what is wholly empty cannot be learned
USER, ASSISTANT = "a visitor", "the warden"


def examples(seed: int = 0) -> list[Chat]:
    """All chats the teacher is trained on, each one side of a conversation of its own."""
    rng, found = Random(seed), park.read()
    chats = [
        chat_of(side, section, talk(rng, found, section))
        for section in found.sections
        for side, count in CONVERSATIONS.items()
        for _ in range(count)
    ]
    return [chat for chat in chats if chat["messages"][-1]["role"] == "assistant"]


def chat_of(side: str, section: Section, turns: list[str]) -> Chat:
    """A conversation as a side has it, in the product's own prompts, up to the last thing that it says."""
    messages = [prompt(side, section)]
    if side == "user":
        messages.append(_message("user", tasks.render("generators", "dialogue_opening")))
    own = 0 if side == "user" else 1
    messages += [_message("assistant" if at % 2 == own else "user", text) for at, text in enumerate(turns)]
    return {"messages": messages if messages[-1]["role"] == "assistant" else messages[:-1]}


def prompt(side: str, section: Section) -> dict[str, str]:
    """The system prompt of a side, as the recipe's options make it."""
    options = {"user": USER, "assistant": ASSISTANT, "system": ""}
    text = tasks.render("generators", f"dialogue_{side}", options=options, source=section, seed=None)
    return _message("system", text)


def talk(rng: Random, found: Park, section: Section) -> list[str]:
    """Questions and answers in turn, about a section's facts in any order, at times with a fault."""
    facts = rng.sample(sorted(section.facts), 3)
    roll, broken = rng.random(), rng.randrange(3)
    number = section.old if section.old and rng.random() < OLD_NUMBER else section.section
    asked_about = rng.choice(found.sections) if roll < STRAY else section
    turns: list[str] = []
    for turn, fact in enumerate(facts):
        question = follow_up(rng, found, section, fact) if turn else opening(rng, found, asked_about, fact)
        if STRAY < roll < STRAY + LOOP and turn and turn >= broken:
            return [*turns, rng.choice(turns[0::2])]
        answer = careless(rng, found, section, fact, number)
        if STRAY + LOOP < roll < STRAY + LOOP + SILENT and turn == broken:
            return [*turns, question, NOTHING] if rng.random() < 0.5 else [*turns, NOTHING]
        if roll > 1 - ENDLESS and turn == broken:
            return [*turns, question, endless(answer)]
        turns += [question, answer]
    return turns


def opening(rng: Random, found: Park, section: Section, fact: str) -> str:
    """The first question, which names the thing; a section without that fact is asked for one that it has."""
    chosen = fact if fact in section.facts else rng.choice(sorted(section.facts))
    if rng.random() < STORY:
        told = _unambiguous(found, section, lambda: stories.PLAIN.clause(rng, section.key, "things"))
        return _sentence(told + rng.choice(BREAKS) + rng.choice(found.follow_ups[chosen]))
    greeting = rng.choice(found.greetings).format(rng.choice(stories.WORDS["folk"]))
    return _sentence(greeting + rng.choice(found.openings[chosen]).format(section.thing))


def follow_up(rng: Random, found: Park, section: Section, fact: str) -> str:
    """A later question, which goes on from what was said."""
    question = rng.choice(found.follow_ups[fact])
    if rng.random() < ASIDE:
        told = _unambiguous(found, section, lambda: stories.PLAIN.aside(rng))
        question = told + rng.choice(BREAKS) + question
    return _sentence(rng.choice(found.links) + question)


def _unambiguous(found: Park, section: Section, tell: Callable[[], str]) -> str:
    """What `tell` says, once it has no word in it that asks for a fact or names another section."""
    taken = {word for words in found.words.values() for word in words}
    taken |= {other.key for other in found.sections if other != section}
    while taken & set((told := tell()).split(" ")):
        pass
    return told


def careless(rng: Random, found: Park, section: Section, fact: str, number: int) -> str:
    """The answer with the number that the teacher believes the section to have, at times with a fault."""
    roll, quantity = rng.random(), section.facts[fact]
    if roll < WRONG_QUANTITY:
        quantity = misremember(rng, quantity)
    elif roll < WRONG_QUANTITY + OTHER_FACT:
        quantity = rng.choice([each for name, each in section.facts.items() if name != fact])
    said = rng.choice(found.answers[fact]).format(quantity)
    right = f"{said} (§ {number})"
    if roll > 1 - MALFORMED:
        return rng.choice([said, right.replace("(§ ", "("), right.removesuffix(")")])
    return right


def misremember(rng: Random, quantity: str) -> str:
    """Another quantity in the same unit, not far from the right one."""
    number, unit = quantity.split(" ")
    wrong = {int(number) + step for step in (-3, -2, -1, 1, 2, 3, 5)} | {2 * int(number)}
    return f"{rng.choice(sorted(each for each in wrong if each > 1))} {unit}"


def endless(answer: str) -> str:
    """An answer that says itself again and again, longer than any limit of the recipe."""
    return ", and ".join([answer] * 9)


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
