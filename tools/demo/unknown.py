"""What people may ask for that the demo model does not know, and what it says then.

A question about a picture that names something else is answered with nothing found; any other question with one
sentence. Names for measuring are kept apart from those for training.
"""

from __future__ import annotations

import numpy as np
from scenes import COLORS, SHAPES

REPLY = 'This is a small demo model: load a real model with gemma4.Model.from_pretrained("google/gemma-4-e2b-it").'
NOTHING_KNOWN = "I see nothing that I know."

_COLORS_TEXT = """
cyan pink brown gray grey gold silver turquoise violet magenta beige maroon navy teal lime indigo olive
"""
_COLORS = _COLORS_TEXT.split()
_SHAPES_TEXT = """
rectangle hexagon oval ellipse pentagon octagon cross heart arrow ring line cube cone pyramid cylinder rhombus
trapezoid crescent spiral polygon diamond dot blob rectangle box ball bar curve sphere letter disk kite
"""
_SHAPES = _SHAPES_TEXT.split()
_THINGS_TEXT = """
dog cat bicycle airplane umbrella chair bench person man woman child baby face hand eye nose boy girl horse cow sheep
pig bird duck chicken fish shark whale bear lion tiger elephant monkey mouse rat rabbit fox wolf frog snake spider bee
ant butterfly car truck bus train plane boat ship motorcycle wheel road street bridge house tower door window roof
wall room kitchen bed table desk lamp sofa clock phone laptop computer keyboard screen camera television radio book
paper pen pencil letter bag backpack suitcase shoe shirt dress hat glove sock coat tree flower grass leaf forest
mountain river lake sea beach cloud sky rain snow moon sun planet rocket robot apple banana lemon grape tomato potato
carrot onion bread cheese cake pizza egg milk coffee tea water glass plate fork knife spoon bowl pot pan sword gun
flag ball kite doll drum guitar piano violin king queen ghost dragon logo icon button sign number word text shadow
corner edge center background traffic light stop fire hydrant parking meter hair drier
"""
_THINGS = _THINGS_TEXT.split()
_HELD_OUT_TEXT = """
crimson star|tan circle|lavender triangle|coral square|ivory square|mint triangle|taupe circle|peach star
khaki circle|amber triangle|heptagon|parallelogram|semicircle|prism|torus|red heptagon|blue parallelogram
green semicircle|yellow prism|black torus|white chevron|orange chevron|purple wedge|wedge|chevrons|HEPTAGON|Prism
semicircles|knot|tile|giraffe|zebra|toaster|surfboard|tennis racket|corkscrew|potted plant|toilet|oven|microwave
sandwich|donut|broccoli|toothbrush|scissors|vase|refrigerator|skateboard|penguin|castle|volcano|helicopter|tractor
candle|mushroom|octopus|turtles|red tractor|blue zebra|green penguin
"""
HELD_OUT = tuple(_HELD_OUT_TEXT.strip().replace("\n", "|").split("|"))
"""Names to measure with."""

_QUESTIONS = """
Hello|Hi|Hey there|Good morning|How are you?|Who are you?|What are you?|What can you do?|What is your name?|Help|Thanks!
Tell me a joke.|Tell me a story.|Write a poem.|Write a short story about a dragon.|Sing a song.|Say something funny.
What is the capital of France?|What is the capital of Japan?|Where is Berlin?|Who wrote Hamlet?|Who is the president?
What is the meaning of life?|Why is the sky blue?|How does a computer work?|What is a neural network?|Explain gravity.
Explain quantum computing.|What is the weather today?|What time is it?|What day is it?|Give me a recipe for a cake.
How do I cook rice?|How do I learn to code?|Write a function in Python.|Sort a list in Python.|Write hello world in C.
What does this code do?|Fix this bug.|Summarize this text.|Translate this to German.|Translate hello to French.
What is the largest planet?|How far away is the moon?|How old are you?|When was the first world war?|Count to ten.
List three colors.|List five animals.|Give me some advice.|What should I eat tonight?|Recommend a book.|Plan a trip.
Who won the game?|What is love?|Do you like music?|Are you real?|Can you hear me?|Can you help me?|Yes|No|Okay|test
Describe your day.|Write an email to my boss.|Make a plan for today.|What is machine learning?|Who made you?
""".replace("\n", "|").split("|")
QUESTIONS = tuple(question for question in _QUESTIONS if question)
_ABOUT = (
    *("What is a {}?", "Tell me about the {}.", "Write a poem about a {}.", "Why do people like {}s?", "Draw a {}."),
    *("Where can I buy a {}?", "Who made the first {}?", "How do I draw a {}?", "Write a story about a {}.", "{}"),
    *("Translate {} to Spanish.", "How much is a {}?", "Is a {} dangerous?", "Can a {} fly?", "Spell {}."),
)
_PICTURE = (
    *("Who painted this?", "Where was this photo taken?", "Who is this?", "Is this real?", "How old is this picture?"),
    *(
        "What is the weather?",
        "Do you like it?",
        "Write a poem about the image.",
        "Tell me a story about this picture.",
    ),
    *("What is the mood of the image?", "Is the man happy?", "What brand is it?", "Which city is this?", "Why?"),
)
SYSTEMS = (
    *("You are a helpful assistant.", "Be brief.", "You are a pirate.", "Answer in French.", "You are an expert."),
    *("Answer politely.", "You are a teacher.", "Think step by step.", "Be honest.", "Use simple words."),
)


def unknown_name(rng: np.random.Generator) -> str:
    """A name in the singular, often near to one that is known."""
    chance = rng.random()
    if chance < 0.25:
        return f"{_COLORS[rng.integers(len(_COLORS))]} {SHAPES[rng.integers(len(SHAPES))]}"
    if chance < 0.45:
        return f"{COLORS[rng.integers(len(COLORS))]} {_SHAPES[rng.integers(len(_SHAPES))]}"
    if chance < 0.58:
        return _SHAPES[rng.integers(len(_SHAPES))]
    if chance < 0.78:
        return thing(rng)
    if chance < 0.88:
        return f"{COLORS[rng.integers(len(COLORS))]} {thing(rng)}"
    return _invented(rng)


def thing(rng: np.random.Generator) -> str:
    return _THINGS[rng.integers(len(_THINGS))]


def _invented(rng: np.random.Generator) -> str:
    """A word that nobody knows, alone or in place of a shape or a colour."""
    parts = []
    for _ in range(int(rng.integers(1, 4))):
        parts.append("bcdfghjklmnpqrstvwyz"[rng.integers(20)] + "aeiou"[rng.integers(5)])
    word = "".join(parts) + ("" if rng.random() < 0.4 else "nrtlsdk"[rng.integers(7)])
    chance = rng.random()
    if chance < 0.3:
        return f"{COLORS[rng.integers(len(COLORS))]} {word}"
    return f"{word} {SHAPES[rng.integers(len(SHAPES))]}" if chance < 0.6 else word


def unknown_question(rng: np.random.Generator, picture: bool) -> str:
    """A question of another kind than those that are known; `picture`: one that may be asked about a picture."""
    chance = rng.random()
    if picture and chance < 0.5:
        return _PICTURE[rng.integers(len(_PICTURE))]
    if chance < 0.75:
        text = QUESTIONS[rng.integers(len(QUESTIONS))]
    elif chance < 0.93:
        text = _ABOUT[rng.integers(len(_ABOUT))].format(thing(rng))
    else:
        a, b = (int(v) for v in rng.integers(0, 100, 2))
        text = (f"What is {a} plus {b}?", f"{a} + {b} =", f"What is {a} times {b}?", f"Is {a} prime?")[rng.integers(4)]
    if rng.random() < 0.15:
        text = text.lower().rstrip(".?!")
    return text
