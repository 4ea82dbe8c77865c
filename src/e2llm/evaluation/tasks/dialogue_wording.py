"""Words of the long dialogues: what is said in passing, and the facts that are stated, updated and asked for.

All of it was written for this task. Small talk has no names, numbers, dates or places, so that a dialogue
holds a value only where it is stated.
"""

SMALL_TALK = (  # (what the user says, what the assistant says); {thing} and {mood} are the same in both
    ("I spent the whole morning with {thing} and I feel {mood} now.", "{Thing} can do that to anyone."),
    ("Do you ever get tired of {thing}?", "I have no strong feelings, but {thing} makes many people {mood}."),
    ("My friends will not stop talking about {thing}.", "It seems that {thing} is what everybody enjoys."),
    ("I tried {thing} again yesterday.", "And were you {mood} in the end?"),
    ("Everyone at work is {mood} because of {thing}.", "A short break might help all of you."),
    ("What would you say about {thing}?", "Start small, be patient, and do not expect to be {mood} at once."),
    ("I read a long article about {thing}.", "Was there something in it that left you {mood}?"),
    ("It has been raining all day, so I turned to {thing}.", "That sounds like a good day for {thing}."),
    ("I never understood why {thing} matters so much.", "For some it is a habit, for some it is a comfort."),
    ("Honestly, {thing} makes me {mood}.", "Thank you for telling me. What else do you like to do?"),
    ("Should I give up on {thing}?", "Give it a few more weeks. Nobody is {mood} on the first day."),
    ("I dreamed about {thing} last night.", "Dreams like that often leave people {mood}."),
    ("My parents used to love {thing}.", "Many of us take such habits from home, {thing} too."),
    ("There was a film about {thing} on television.", "I hope it did not leave you {mood}."),
    ("I bought a book on {thing}.", "Read a little every evening, and tell me whether it makes you {mood}."),
    ("Nothing beats {thing} after a long week.", "I can see why. It must leave you {mood}."),
)

_THINGS = """
baking bread, cleaning the kitchen, old detective films, growing tomatoes, learning the guitar,
long walks in the woods, board games, repairing bicycles, bird watching, crossword puzzles, cooking soup,
painting the fence, yoga in the morning, jazz records, knitting scarves, sorting old photographs,
playing chess, swimming in the lake, making jam, collecting stamps, ironing shirts, model railways,
writing letters by hand, singing in a choir, polishing shoes, watching the stars, mowing the lawn,
drawing with charcoal, stand-up comedy, sewing curtains, roasting coffee, reading ghost stories,
table tennis, pottery, folding paper animals, picking mushrooms, silent films, carving wood,
dancing in the living room, making playlists
"""
THINGS = tuple(thing.strip() for thing in _THINGS.split(","))

_MOODS = """
cheerful tired calm restless proud curious grumpy hopeful sleepy content puzzled amused nervous relaxed
inspired bored grateful thoughtful hungry surprised
"""
MOODS = tuple(_MOODS.split())

OWNERS = ("my", "my sister's", "my brother's", "my neighbour's", "my boss's", "my aunt's", "my flatmate's")

SUBJECTS = (  # (kind of value, what it is of; {owner} is one of OWNERS)
    ("number", "the number of {owner} locker"),
    ("number", "the code of {owner} front door"),
    ("number", "the number of {owner} library card"),
    ("number", "the number of {owner} parking space"),
    ("number", "the extension of {owner} office telephone"),
    ("name", "the name of {owner} dentist"),
    ("name", "the name of {owner} landlord"),
    ("name", "the name of {owner} piano teacher"),
    ("name", "the name of {owner} lawyer"),
    ("date", "the date of {owner} driving test"),
    ("date", "the date of {owner} wedding"),
    ("date", "the date of {owner} next check-up"),
    ("date", "the date of {owner} housewarming party"),
    ("place", "the town of {owner} next holiday"),
    ("place", "the town of {owner} new office"),
    ("place", "the town of {owner} summer course"),
)

STATEMENTS = (
    "By the way, {subject} is {value}.",
    "Before I forget, {subject} is {value}.",
    "Please remember that {subject} is {value}.",
    "Just so you know, {subject} is {value}.",
)

UPDATES = (
    "I have to correct myself: {subject} is now {value}.",
    "Something has changed, {subject} is {value} from now on.",
    "Forget what I said before, {subject} is {value} now.",
)

REPLIES = ("Thanks, I will keep that in mind.", "Noted.", "All right, I will remember it.", "Good to know.")

QUESTION = "What is {subject}? Give what I told you last, and nothing else."

_FIRST_NAMES = """
Adela Bruno Clara Dario Edith Felix Greta Hugo Irene Jonas Klara Leon Mathilda Nils Olga Pavel Rosa Stefan
Thea Ulrich Vera Walter Yvonne Zoltan
"""
FIRST_NAMES = tuple(_FIRST_NAMES.split())
_LAST_NAMES = """
Abbott Barlow Castell Drummond Eastman Fairfax Goodwin Hartley Ingram Jessop Kendall Lockwood Merton Norwood
Osborne Pemberton Quigley Radcliffe Sheldon Thornton Underhill Vaughan Whitaker Yardley
"""
LAST_NAMES = tuple(_LAST_NAMES.split())
_MONTHS = """
January February March April May June July August September October November December
"""
MONTHS = tuple(_MONTHS.split())
_TOWNS = """
Aberdeen Bergen Bologna Cordoba Dresden Edmonton Fukuoka Galway Hobart Innsbruck Jaipur Krakow Lausanne
Malaga Nantes Odense Porto Quebec Rotterdam Salzburg Tampere Utrecht Valencia Windhoek Yokohama Zagreb
Adelaide Bruges Cusco Dundee Exeter Florence Ghent Havana Izmir Kyoto Lucerne Montreal Naples Oxford Palermo
Ravenna Seville Turin Uppsala Verona Warsaw Zurich
"""
TOWNS = tuple(_TOWNS.split())
