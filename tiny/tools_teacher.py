"""What the teacher of recipes/smart_home is taught: to write requests and calls, and carelessness.

It takes many values that are said in words as they stand ("half an hour" for 0.5, "off" for a text), which
the schemas mostly refuse; the other faults are drawn anew for every example. What it learns is their rate,
and it makes new ones when it is sampled.

The prompts, of 250 tokens each, differ in the order of the tools alone. So most examples have the function's
name in their place, which costs a fraction; the others teach what the prompts stand for.
"""

from __future__ import annotations

import json
from random import Random

from factory.tool_files import read_tools
from tiny import smart_home, tasks
from tiny.smart_home import Call, Wish

SHORT, WHOLE = 16_000, 1_000  # examples of either kind for each function
MISTAKEN = 0.6  # of the values that are said in words
FAULTS = {"beyond": 0.02, "as_text": 0.01, "misnamed": 0.02, "leaked": 0.02, "other_value": 0.03}


def examples(seed: int = 0) -> list[tasks.Pair]:
    """All chats the teacher is trained on."""
    rng = Random(seed)
    tools = list(read_tools(smart_home.RECIPE, "tools.json"))
    pairs = []
    for number in range(SHORT + WHOLE):
        for tool in tools:
            offered = [each.text for each in rng.sample(tools, len(tools))]
            whole = tasks.render("generators", "tool_calls", tool=tool.title, num_calls=1, tools=offered)
            prompt = tool.title if number < SHORT else whole
            pairs.append((prompt, written(*careless(rng, smart_home.draw_wish(rng, tool.title)))))
    return pairs


def written(request: str, call: Call) -> str:
    """The answer in the form that the strategy asks for."""
    as_text = call | {"arguments": json.dumps(call["arguments"], ensure_ascii=False)}
    return json.dumps({"request": request, "calls": [as_text]}, ensure_ascii=False)


def careless(rng: Random, wish: Wish) -> tuple[str, Call]:
    """The request, and its call as the teacher writes it."""
    (fault,) = rng.choices([*FAULTS, ""], [*FAULTS.values(), 1 - sum(FAULTS.values())])
    if fault == "beyond":
        wish = smart_home.draw_wish(rng, wish.function, beyond=True)
    request = smart_home.put_in_words(rng, wish, "teacher")
    call = wish.call(**wish.mistaken) if wish.mistaken and rng.random() < MISTAKEN else wish.call()
    if fault == "as_text":
        name = rng.choice(list(wish.arguments))
        call = wish.call(**{name: str(wish.arguments[name]).lower()})
    elif fault == "misnamed":
        call["name"] = rng.choice(smart_home.known()["misnamed"][wish.function])
    elif fault == "leaked":
        request = f"Use {wish.function}: {request[0].lower()}{request[1:]}"
    elif fault == "other_value":
        call = another(rng, wish)
    return request, call


def another(rng: Random, wish: Wish) -> Call:
    """A valid call of the same function for something else."""
    while (call := smart_home.draw_wish(rng, wish.function).call()) == wish.call():
        pass
    return call
