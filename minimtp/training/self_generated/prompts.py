"""What a model is asked: messages of conversations, and requests to change a function.

A first message is a template filled with a subject, so a few lists give thousands of messages. A
model that trains on conversations must not be measured on the same questions. So the subjects are
divided: `held_out` messages are about other subjects than the others.
"""

import ast
import hashlib
import random
import warnings

MIN_LINE = 40  # characters; shorter lines are titles
NEW_LINE = "\n"
HELD_OUT = 5  # one subject in 5 is held out

TOPICS = """
photosynthesis; black holes; the water cycle; inflation; the French Revolution; gravity;
vaccines; plate tectonics; the immune system; electric cars; supply and demand; the Roman
Empire; volcanoes; machine learning; the greenhouse effect; DNA; the Renaissance; antibiotics;
solar panels; tides; the stock market; evolution; the printing press; democracy; earthquakes;
the internet; coral reefs; blockchain; jet engines; the Silk Road; hibernation; magnetism;
compound interest; the human heart; recycling; the Cold War; probability; batteries; migration
of birds; the northern lights; insulin; the Great Wall of China; fermentation; lightning;
satellites; the periodic table; sleep; opera; nuclear power; the Industrial Revolution; bees and
pollination; glaciers; encryption; rainbows; operating systems; the Amazon rainforest; taxes;
relativity; jazz; chess openings; concrete
"""
QUESTIONS = """
What is {}?
Explain {} to a ten-year-old.
Can you explain {} in simple terms?
Why does {} matter?
Give me three interesting facts about {}.
What are common misunderstandings about {}?
Write a short paragraph about {}.
Summarize what a beginner should know about {}.
What is the history of {}?
Write five quiz questions about {}, with answers.
How would you teach {} in a school lesson?
What should I read or try first if I want to learn about {}?
"""
SITUATIONS = """
preparing for a job interview; learning a new language; saving money every month; moving to a
city; running a first marathon; growing tomatoes on a balcony; sleeping better; planning a
birthday party; reducing food waste; adopting a dog; studying for an exam; writing a cover
letter; working from home; cooking for a large family; fixing a flat bicycle tyre; giving a
speech at a wedding; learning guitar; traveling with small children; cleaning a very messy
garage; making friends after moving; meditating; asking for a raise; starting a small business;
baking bread; dealing with a noisy neighbour; hiking in the mountains; reading more books;
choosing a laptop; removing a wine stain; caring for houseplants; drinking more water; handling
stress at work; packing a suitcase; learning to swim; hosting a dinner
"""
ADVICE = """
I need help with {}. Where do I start?
Give me five tips for {}.
What mistakes should I avoid when it comes to {}?
Make a simple one-week plan for {}.
Write a checklist for {}.
My friend asked me about {}. What should I say?
What do I need for {}?
"""
THINGS = """
healthy breakfasts; board games for two; science fiction novels; capital cities in Europe;
fruits rich in vitamin C; renewable energy sources; musical instruments; programming languages;
inventions that changed daily life; birds of prey; ways to say thank you; famous painters;
outdoor games for children; spices; planets; uses for an old T-shirt; Olympic sports; herbs for
a kitchen garden; names for a cat; rivers in Africa; soups; questions for a first meeting;
classic films; mountain ranges; gifts under ten dollars
"""
LISTS = """
List ten {}.
List five {} and describe each in one sentence.
Name three {} and say which you would recommend.
Make a table of four {} with two columns.
What are some {}?
Rank five {} and explain your order.
"""
HEROES = """
a lonely lighthouse keeper; a robot that is afraid of rain; a young baker; a retired detective;
a talking crow; two rival gardeners; a girl who collects sounds; a clumsy wizard; a train
conductor; a lost penguin; an astronaut; a librarian who finds a map; a violin maker; a tired
superhero; a boy and his kite; a dragon that cannot fly; a night bus driver; an old turtle; a
painter who lost her colours; a clockmaker
"""
STORIES = """
Write a short story about {}.
Write a poem of eight lines about {}.
Write the first paragraph of a novel about {}.
Write a dialogue between {} and a stranger.
Tell a bedtime story about {}, with a happy ending.
Describe a day in the life of {}.
"""
PROGRAMS = """
reverses a string; checks whether a number is prime; counts the words in a text; merges two
sorted lists; finds the largest number in a list; converts Celsius to Fahrenheit; computes the
factorial of a number; checks whether a word is a palindrome; removes duplicates from a list;
reads a CSV file; sorts dictionaries by a key; generates Fibonacci numbers; validates an email
address; flattens a nested list; counts how often each letter occurs; finds the common elements
of two lists; rolls two dice; groups words by their first letter; computes the average of a
list; searches a sorted list; transposes a matrix; replaces every vowel in a string; measures
how long a function takes; parses a date; rotates a list; computes the greatest common divisor;
converts a number to binary; writes a list of lines to a file
"""
CODING = """
Write a Python function that {}.
Write a Python function that {}, with a docstring and type hints.
How do I write code that {}? Explain each step.
Write a small class in Python with a method that {}.
Write unit tests for a function that {}.
Show two different ways to write a Python function that {}.
Write a JavaScript function that {}.
"""
SENTENCES = """
the meeting was moved to friday because nobody was ready; me and him goes to the market every
sunday; the results is better than we was expecting; i dont have no time for this today; she
said that she will come yesterday; the car that i bought it is very fast; our new product are
cheap, and good quality; there is many reason to visit our town; he speak english very good
since two years; this report have to be finish until monday; please sent me the document as soon
as its possible; the weather were nice so we was walking in the park
"""
REWRITING = """
Correct this sentence: {}
Rewrite this more formally: {}
Rewrite this as a friendly email: {}
What is wrong with this sentence? {}
Translate this into simple, correct English: {}
"""
SECOND_MESSAGES = """
Can you make that shorter?
Can you give me an example?
Why is that?
Thanks! Can you explain the second point in more detail?
Could you say that in simpler words?
What would be a good next step?
Are there any exceptions?
Can you turn that into a list?
I am not sure I understand. Can you explain it again, differently?
How would you explain this to a child?
What is the most important part of your answer?
Can you give me three more?
Is that always true?
Please summarize your answer in one sentence.
What are the disadvantages?
Can you write that as a table?
What would you do in my place?
Interesting. Where can I learn more about this?
"""
EDITS = """
add a docstring
add type hints
rename its first parameter to `value`
add a comment above every block
add a check that raises ValueError for wrong arguments
rename the function to `improved`
make the names of its local variables longer and clearer
add a parameter `verbose=False` that prints what the function does
"""
KINDS = (
    (QUESTIONS, TOPICS, 5),
    (ADVICE, SITUATIONS, 4),
    (LISTS, THINGS, 3),
    (STORIES, HEROES, 3),
    (CODING, PROGRAMS, 4),
    (REWRITING, SENTENCES, 1),
)  # templates, subjects, weight


def first_messages(count: int, seed: int, held_out: bool = False) -> list[str]:
    """Return `count` different first messages of a user, in random order, the same for a seed.

    held_out: those that are about held-out subjects. Fewer are returned if there are no more.
    """
    rng = random.Random(f"{seed} {held_out}")
    pools = []
    for templates, subjects, _ in KINDS:
        chosen = [s for s in _items(subjects, ";") if _is_held_out(s) == held_out]
        pool = [t.format(s) for t in _items(templates, "\n") for s in chosen]
        rng.shuffle(pool)
        pools.append(pool)
    weights, messages = [weight for *_, weight in KINDS], []
    while len(messages) < count and any(pools):
        pool = rng.choices(pools, weights)[0]
        if pool:
            messages.append(pool.pop())
    return messages


def second_messages(count: int, seed: int) -> list[str]:
    """Return `count` second messages of a user, which fit any answer."""
    rng = random.Random(f"{seed} second")
    return rng.choices(_items(SECOND_MESSAGES, "\n"), k=count)


def edit_message(function: str, rng: random.Random) -> str:
    """Return the request to change a function and to write all of it."""
    return (
        f"Here is a function:\n\n```python\n{function}\n```\n\nPlease "
        f"{rng.choice(_items(EDITS, NEW_LINE))}, and write the whole function again."
    )


def functions_in(source: bytes) -> list[str]:
    """Return the source of all functions and methods of a Python file, [] if this Python cannot
    parse it.
    """
    text = source.decode("utf-8", "replace")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about escapes in old files
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError):
            return []
    found, lines = [], text.split(NEW_LINE)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            kept = lines[node.lineno - 1 : node.end_lineno]
            indent = len(kept[0]) - len(kept[0].lstrip())
            found.append(
                NEW_LINE.join(line[indent:] if not line[:indent].strip() else line for line in kept)
            )
    return found


def beginnings(text: str, kind: str) -> list[int]:
    """Return where a text can begin, as positions: a function, a class or a comment in code, a
    paragraph in prose.
    """
    found, position, blank = [], 0, True
    for line in text.splitlines(keepends=True):
        words = line.strip()
        if kind == "code" and words.startswith(("def ", "class ", "# ", "@")):
            found.append(position)
        if kind == "prose" and blank and len(words) > MIN_LINE and words[0].isupper():
            found.append(position)
        blank, position = not words, position + len(line)
    return found


def _items(text: str, separator: str) -> list[str]:
    return [" ".join(item.split()) for item in text.split(separator) if item.strip()]


def _is_held_out(subject: str) -> bool:
    return hashlib.sha256(subject.encode()).digest()[0] % HELD_OUT == 0
