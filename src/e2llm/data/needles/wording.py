"""The wordings of training needles, several for each fact and question.

None of them is RULER's (Hsieh et al. 2024, arXiv 2404.06654), so that RULER tests what a model has learned.
"""

Fact = tuple[str, str, str]

# (statement, question, answer): facts of plain prose. `{thing}` or `{name}` tells one fact from another.
FACTS: tuple[Fact, ...] = (
    ("The {attribute} of {thing} is {number}.", "What is the {attribute} of {thing}?", "{number}"),
    ("The {attribute} for {thing} is {number}.", "What is the {attribute} for {thing}?", "{number}"),
    ("The {attribute} of {thing} was {number}.", "What was the {attribute} of {thing}?", "{number}"),
    ("Remember: the {attribute} of {thing} is {number}.", "Tell me the {attribute} of {thing}.", "{number}"),
    ("{number} is the {attribute} of {thing}.", "Which {attribute} does {thing} have?", "{number}"),
    ("The {attribute} of {thing} is now {number}.", "Give the {attribute} of {thing}.", "{number}"),
    ("{name}'s {attribute} is {number}.", "What is {name}'s {attribute}?", "{number}"),
    ("{name} paid {number} dollars for {thing}.", "How many dollars did {name} pay?", "{number}"),
    ("{name} owns {number} {noun}s.", "How many {noun}s does {name} own?", "{number}"),
    ("{name} was born in {year}.", "In which year was {name} born?", "{year}"),
    ("{name} left in the year {year}.", "When did {name} leave?", "{year}"),
    ("The coach to {place} leaves at {time}.", "When does the coach to {place} leave?", "{time}"),
    ("{name} arrives at {time}.", "When does {name} arrive?", "{time}"),
    ("{name} lives in {place}.", "Where does {name} live?", "{place}"),
    ("{name} came from {place}.", "Where did {name} come from?", "{place}"),
    ("The owner of {thing} is {name}.", "Who is the owner of {thing}?", "{name}"),
    ("{name} gave away {thing}.", "Who gave away {thing}?", "{name}"),
    ("The colour of {thing} is {colour}.", "What is the colour of {thing}?", "{colour}"),
    ("The password of {thing} is {word}.", "What is the password of {thing}?", "{word}"),
    ("The secret word of {name} is {word}.", "What is the secret word of {name}?", "{word}"),
    ("{name} hid the {noun} under {thing}.", "Where did {name} hide the {noun}?", "under {thing}"),
)

# The gaps of these get words and names of the haystacks.
TEXT_FACTS: tuple[Fact, ...] = (
    ("The password of {thing} is {word}.", "What is the password of {thing}?", "{word}"),
    ("The secret word of {name} is {word}.", "What is the secret word of {name}?", "{word}"),
    ("The word for {thing} is {word}.", "What is the word for {thing}?", "{word}"),
    ("{name} whispered the word {word}.", "Which word did {name} whisper?", "{word}"),
    ("The {noun} is called {name}.", "What is the {noun} called?", "{name}"),
    ("The name of the {noun} is {name}.", "What is the name of the {noun}?", "{name}"),
    ("My {noun} {name} lives in {place}.", "Where does my {noun} {name} live?", "{place}"),
    ("{name} lives in {place}.", "Where does {name} live?", "{place}"),
    ("{name} was born in {place}.", "Where was {name} born?", "{place}"),
    ("{name} went to {place}.", "Where did {name} go?", "{place}"),
    ("{name} sent a letter to {place}.", "Where did {name} send a letter?", "{place}"),
    ("{name} met {place} at {thing}.", "Whom did {name} meet at {thing}?", "{place}"),
    ("{name} is the owner of {thing}.", "Who is the owner of {thing}?", "{name}"),
    ("{thing} belongs to {name}.", "To whom does {thing} belong?", "{name}"),
    ("{name} found {thing}.", "Who found {thing}?", "{name}"),
    ("{name} found {thing} again.", "What did {name} find again?", "{thing}"),
    ("{name} hid the {noun} under {thing}.", "Where did {name} hide the {noun}?", "under {thing}"),
    ("{name} keeps the {noun} behind {thing}.", "Where does {name} keep the {noun}?", "behind {thing}"),
    ("{name} is afraid of {thing}.", "What is {name} afraid of?", "{thing}"),
    ("{name} likes {word} best.", "What does {name} like best?", "{word}"),
    ("The colour of {thing} is {colour}.", "What is the colour of {thing}?", "{colour}"),
    ("{name} is {number} years old.", "How old is {name}?", "{number}"),
    ("The number of {thing} is {number}.", "What is the number of {thing}?", "{number}"),
    ("The code of {thing} is {number}.", "What is the code of {thing}?", "{number}"),
)

STATEMENTS = (
    "The secret {noun} for {key} is {value}.",
    "Remember that the {noun} for {key} is {value}.",
    "Note that {key} has the hidden {noun} {value}.",
    "The {noun} kept for {key} is {value}.",
    "Whoever asks about {key} must be told this {noun}: {value}.",
    "They wrote down {value} as a {noun} for {key}.",
    "In the list, the {noun} next to {key} is {value}.",
)

QUESTIONS = (
    "What is the secret {noun} for {key}?",
    "Which {noun} does the text give for {key}?",
    "Find the {noun} for {key}.",
    "The text hides a {noun} for {key}. What is it?",
    "Which {noun} belongs to {key}?",
)

QUESTIONS_FOR_ALL_VALUES = (
    "What are all the {noun}s for {key} in the text?",
    "List every {noun} that the text gives for {key}, separated by commas.",
    "Several {noun}s are hidden for {key}. Name all of them.",
)

QUESTIONS_FOR_ALL_KEYS = (
    "What are the {noun}s for {keys}?",
    "Give the {noun}s for {keys}, in this order, separated by commas.",
)
