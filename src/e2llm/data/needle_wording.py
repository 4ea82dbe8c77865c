"""Words and phrasings of the generated needle tasks: several ways to say a fact and to ask for it.

The tasks are those of RULER (Hsieh et al. 2024, arXiv 2404.06654). The first phrase of the needles'
statements and questions is the benchmark's own, the others are ours: a model that trains on them knows the
sentence when it is scored, but neither the key and the value in it nor the text around it.
"""

_ADJECTIVES = """
amber ancient bitter blue bold brave bright brisk broken calm careful cheerful clever cold copper crimson
curious damp dark dear deep distant dusty eager early empty faint famous fancy fast fierce final fine
foggy forgotten fresh friendly gentle giant glad golden grand gray great green happy hasty heavy hidden
hollow honest humble hungry icy idle iron jolly keen kind large late lazy light little lively lonely loud
lucky mellow merry mighty misty modest narrow neat nimble noble odd old orange pale patient plain polite
proud purple quick quiet rapid rare red restless rich rough round royal rusty sad scarlet secret shallow
sharp shiny shy silent silver simple sleepy slow small smooth snowy soft solid sour spare stormy strange
strong sunny sweet swift tall tame tender thin tiny tough vast violet warm weary wet white wide wild wise
wooden yellow young
"""
ADJECTIVES = tuple(_ADJECTIVES.split())

_NOUNS = """
acorn anchor apple arrow badge bakery barn basket beacon bear bell berry bird blanket boat book bottle
bridge broom bucket butter button cabin camel candle captain carpet castle cellar chair cherry chimney
circle clock cloud coat comet corner cottage cousin cradle crane crown cup dagger daisy desert diamond
doctor dragon drum eagle engine falcon farmer feather fence ferry field fiddle finger forest fountain fox
garden garlic gate ghost glacier glove goat goose grape hammer harbor harp hat hawk helmet hill honey
horse island jacket jewel judge kettle kitchen kite ladder lake lamp lantern lemon letter lion lizard
locket market meadow melon mill mirror monkey moon morning mountain museum needle nest oak ocean onion
orchard otter owl palace parrot pebble pencil pepper piano pigeon pillow pirate planet pocket pond potato
prince puzzle queen rabbit raven ribbon river robin rocket rose sailor salmon school seal shadow sheep
ship shoe sister sparrow spider spoon spring squirrel stable statue stone storm summer sword table tailor
temple thimble tiger tower town train tree trumpet turtle umbrella uncle valley village violin wagon
walnut water weaver whale wheel willow window winter wolf
"""
NOUNS = tuple(_NOUNS.split())

_NAMES = """
Ada Agnes Albert Alice Amos Anna Arthur Basil Beatrice Ben Bertha Bruno Carl Cecil Clara Conrad Cora Daisy
Daniel Dora Edgar Edith Edmund Ella Elsa Emil Emma Eric Ernest Esther Eva Felix Fiona Flora Frank Fred
Frieda George Gilbert Grace Greta Gus Hannah Harold Harriet Hector Helen Henry Herman Hilda Hugo Ida Ines
Iris Isaac Ivan Ivy Jacob Jane Jasper Joan Jonas Judith Julia Karl Kate Klara Laura Lena Leo Lewis Lily
Louis Lucy Luke Mabel Magnus Marian Mark Martha Martin Mary Maud Max Milo Minna Mira Nancy Ned Nina Nora
Oliver Olga Oscar Otto Paul Peggy Percy Peter Philip Phoebe Polly Ralph Rhoda Robert Roland Rosa Ruben Rufus
Ruth Sam Sarah Silas Simon Sophie Stella Susan Sybil Thea Theo Thomas Tilda Tobias Ursula Vera Victor Viola
Walter Wanda Wilma Yara Zoe
"""
NAMES = tuple(_NAMES.split())

_PLACE_BEGINNINGS = "Ash Bram Brin Cor Dal Elm Fen Gar Hal Kel Lan Mar Nor Oak Pel Rav Sel Tor Wex Yar"
PLACE_BEGINNINGS = tuple(_PLACE_BEGINNINGS.split())
_PLACE_ENDINGS = "bridge bury by combe dale field ford ham holm hurst ley mere mouth ton wick worth"
PLACE_ENDINGS = tuple(_PLACE_ENDINGS.split())

_COLOURS = "black blue brown crimson golden green grey orange pink purple red silver white yellow"
COLOURS = tuple(_COLOURS.split())

_ATTRIBUTES = """
account address age badge balance code combination depth height key length licence limit number order password
pin price rank reference registration room score serial size speed ticket total value weight width
"""
ATTRIBUTES = tuple(_ATTRIBUTES.split())

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

# The same with words and names of the haystacks in the gaps, which no list foresees.
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

WORD_LIST = "This is a numbered list of words, some of which stand in it more often than the others.\n"
COMMON_QUESTION = "What are the {count} most common words in the above list?"
COMMON_QUESTION_FOR_ONE = "What is the most common word in the above list?"
FREQUENT_QUESTION = (
    "What are the three most frequently appeared words in the above coded text? "
    "Ignore the dots and answer with the words alone."
)

STATEMENTS = (
    "One of the special magic {noun}s for {key} is: {value}.",
    "The secret {noun} for {key} is {value}.",
    "A special magic {noun} for {key} is: {value}.",
    "Remember that the {noun} for {key} is {value}.",
    "Note that {key} has the hidden {noun} {value}.",
    "The {noun} kept for {key} is {value}.",
    "Whoever asks about {key} must be told this {noun}: {value}.",
    "They wrote down {value} as a {noun} for {key}.",
    "In the list, the {noun} next to {key} is {value}.",
)

QUESTIONS = (
    "What is the special magic {noun} for {key} mentioned in the provided text?",
    "What is the secret {noun} for {key}?",
    "Which {noun} does the text give for {key}?",
    "What special magic {noun} for {key} is mentioned in the text?",
    "Find the {noun} for {key}.",
    "The text hides a {noun} for {key}. What is it?",
    "Which {noun} belongs to {key}?",
)

QUESTIONS_FOR_ALL_VALUES = (
    "What are all the special magic {noun}s for {key} mentioned in the provided text?",
    "What are all the {noun}s for {key} in the text?",
    "List every {noun} that the text gives for {key}, separated by commas.",
    "What are all the special magic {noun}s for {key} mentioned in the text?",
    "Several {noun}s are hidden for {key}. Name all of them.",
)

QUESTIONS_FOR_ALL_KEYS = (
    "What are all the special magic {noun}s for {keys} mentioned in the provided text?",
    "What are the {noun}s for {keys}?",
    "Give the {noun}s for {keys}, in this order, separated by commas.",
    "What are all the special magic {noun}s for {keys} mentioned in the text?",
)

ASSIGNMENTS = (  # (a variable gets a number, a variable gets the value of another)
    ("VAR {name} = {value}", "VAR {name} = VAR {other}"),
    ("VAR {name} = {value}.", "VAR {name} = VAR {other}."),
    ("Let {name} = {value}.", "Let {name} = {other}."),
    ("{name} = {value};", "{name} = {other};"),
    ("The variable {name} is set to {value}.", "The variable {name} is set to the value of {other}."),
    ("Give {name} the value {value}.", "Give {name} the value of {other}."),
)

QUESTIONS_FOR_VARIABLES = (
    "Find all variables that are assigned the value {value} in the text above. There are {count} of them.",
    "Which variables have the value {value}?",
    "Find all variables that hold the value {value} in the text.",
    "List every variable that ends up with the value {value}, separated by commas.",
)

QUESTIONS_FOR_A_VARIABLE = (
    "What is the value of {name}?",
    "Which number does the variable {name} hold?",
    "Follow the assignments: what number does {name} get?",
)

NOISE = (
    "The road is long. The night is cold. The river runs on. We walk a while. Then we rest.",
    "The bread is warm. The house is still. The wind goes by. Come in. Sit down again.",
    "Rain falls on the hill. Snow lies on the field. The day is short. Off we go. Home we come.",
)
