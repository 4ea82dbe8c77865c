"""The model type `e2llm` of lm_eval; where nothing is compressed it equals lm_eval's own `hf`."""

import pytest
import torch

pytest.importorskip("lm_eval", reason="lm_eval is not installed; it comes with: pip install 'e2llm[harness]'")
from harness_requests import PAIRS, PROMPT, ROW, STORY, ask, likelihood, requests

# --- nothing compressed: equal to transformers and to hf ---------------------------------------------------


def test_the_likelihood_is_that_of_the_decoder_alone(engine, plain):
    tokenizer, decoder = engine.processor.tokenizer, engine.model.language_model
    before, after = (
        tokenizer("Where is the key?").input_ids,
        tokenizer(" Here.", add_special_tokens=False).input_ids,
    )
    with torch.no_grad():
        logits = decoder(torch.tensor([before + after])).logits[0, len(before) - 1 : -1]
    expected = logits.log_softmax(-1)[range(len(after)), after].sum().item()
    assert likelihood(plain, "Where is the key?", " Here.")[0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("pair", PAIRS)
def test_likelihoods_equal_those_of_hf(plain, own, pair):
    ours, theirs = likelihood(plain, *pair), likelihood(own, *pair)
    assert ours[0] == pytest.approx(theirs[0], abs=2e-4)
    assert ours[1] == theirs[1]


def test_a_model_that_compresses_leaves_prompts_without_documents_as_they_are(make, own):
    assert likelihood(make(), *PAIRS[0])[0] == pytest.approx(likelihood(own, *PAIRS[0])[0], abs=1e-4)


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        ("Where is the key?", {"max_gen_toks": 12}),
        ("Where is the key?", {"max_gen_toks": 40, "until": ["e", "zz"]}),
        (PROMPT, {"max_gen_toks": 12, "until": "\n", "temperature": 0.0, "do_sample": False}),
        (PROMPT * 6, {"max_gen_toks": 12}),
        (PROMPT, {"max_gen_toks": 12, "num_beams": 3}),
    ],
)
def test_answers_equal_those_of_hf(plain, own, prompt, options):
    assert ask(plain, prompt, **options) == ask(own, prompt, **options)


@pytest.mark.parametrize("text", ["The key.", STORY, STORY * 12])
def test_rolling_equals_that_of_hf(make, own, text):
    (ours,) = make().loglikelihood_rolling(requests("loglikelihood_rolling", (text,)))
    (theirs,) = own.loglikelihood_rolling(requests("loglikelihood_rolling", (text,)))
    assert ours == pytest.approx(theirs, abs=1e-5 * abs(theirs) + 1e-4)


# --- with soft tokens ---------------------------------------------------------------------------------------


def by_hand(engine, soft_tokens):
    """Inputs of PROMPT with the soft tokens of its story in its place."""
    context = engine.read(STORY, progress=False)
    tokenizer = engine.processor.tokenizer
    before, after = PROMPT.split(STORY)
    ids = [
        *tokenizer(before).input_ids,
        *[engine.processor.chunk_token_id] * soft_tokens * len(context),
        *tokenizer(after, add_special_tokens=False).input_ids,
    ]
    return ids, context.kept[:, :soft_tokens].flatten(0, 1)


def test_the_likelihood_after_soft_tokens_is_the_models_loss(engine, make):
    ids, soft_tokens = by_hand(engine, 2)
    answer = engine.processor.tokenizer(" under", add_special_tokens=False).input_ids
    labels = torch.tensor([[-100] * len(ids) + answer])
    with torch.no_grad():
        output = engine.model(torch.tensor([ids + answer]), labels=labels, chunk_embeds=soft_tokens)
    ours = likelihood(make(soft_tokens=2), PROMPT, " under", ROW)[0]
    assert ours == pytest.approx(-output.token_losses.sum().item(), abs=1e-4)
    assert ours != pytest.approx(likelihood(make(soft_tokens=1), PROMPT, " under", ROW)[0], abs=1e-3)


def test_an_answer_after_soft_tokens_is_the_models_own(engine, make):
    ids, soft_tokens = by_hand(engine, 3)
    new = engine.model.generate(input_ids=torch.tensor([ids]), chunk_embeds=soft_tokens, max_new_tokens=9)
    expected = engine.processor.tokenizer.decode(new[0, len(ids) :], skip_special_tokens=True)
    assert ask(make(soft_tokens=3), PROMPT, ROW, max_gen_toks=9) == expected


def test_a_document_at_the_end_of_the_prompt_is_followed_by_the_continuation(engine, make):
    model = make(soft_tokens=1)
    context = engine.read(STORY, progress=False)
    start = engine.processor.tokenizer("Read: ").input_ids
    answer = engine.processor.tokenizer(" Then", add_special_tokens=False).input_ids
    ids = start + [engine.processor.chunk_token_id] * len(context) + answer
    labels = torch.tensor([[-100] * (len(ids) - len(answer)) + answer])
    with torch.no_grad():
        output = engine.model(torch.tensor([ids]), labels=labels, chunk_embeds=context.kept[:, 0])
    ours = likelihood(model, f"Read: {STORY}", " Then", ROW)[0]
    assert ours == pytest.approx(-output.token_losses.sum().item(), abs=1e-4)


def test_equal_prompts_on_other_chunks_are_told_apart(make):
    model = make(soft_tokens=1)
    stories = [STORY, STORY.replace("stone", "brick")]
    pairs = [likelihood(model, f"Read: {story} Who?", "A", {"context": story}) for story in stories]
    assert pairs[0] != pairs[1]


@pytest.mark.parametrize(("question", "row"), [("Boats", {}), ("Where is the key?", ROW)])
def test_greedy_is_what_generation_gives(make, question, row):
    model = make(soft_tokens=2)
    prompt = f"Read this.\n\n{STORY}\n\nQuestion: {question}\nAnswer:"
    answer = ask(model, prompt, row, max_gen_toks=4)  # an answer that encodes to the tokens it was made of
    assert likelihood(model, prompt, answer, row)[1]
    assert not likelihood(model, prompt, answer[:-1] + "~", row)[1]


# --- stopping and sampling ----------------------------------------------------------------------------------


def test_an_answer_ends_before_its_first_stop_text(make):
    model = make()
    whole = ask(model, PROMPT, ROW, max_gen_toks=30)
    stop = whole[9:11]
    assert ask(model, PROMPT, ROW, max_gen_toks=30, until=["never", stop]) == whole[: whole.index(stop)]


def test_generation_stops_at_a_stop_text(engine, make, monkeypatch):
    lengths, generate = [], engine.model.generate

    def watch(**options):
        output = generate(**options)
        lengths.append(output.shape[1] - options["input_ids"].shape[1])
        return output

    whole = ask(make(), PROMPT, ROW, max_gen_toks=30)
    monkeypatch.setattr(engine.model, "generate", watch)
    ask(make(), PROMPT, ROW, max_gen_toks=30)
    ask(make(), PROMPT, ROW, max_gen_toks=30, until=[whole[4:6]])
    assert lengths[0] == 30
    assert lengths[1] < 12


def test_sampling_follows_the_seed_and_the_temperature(make):
    model, options = make(), {"max_gen_toks": 12, "do_sample": True}

    def sample(seed, **more):
        torch.manual_seed(seed)
        return ask(model, PROMPT, ROW, **options, **more)

    assert sample(1, temperature=1.5) == sample(1, temperature=1.5)
    assert len({sample(seed, temperature=1.5) for seed in range(4)}) > 1
    assert (
        sample(1, temperature=0.0) == sample(2, temperature=0.0) == ask(model, PROMPT, ROW, max_gen_toks=12)
    )


def test_a_task_that_names_no_length_gets_max_gen_toks(engine, make, monkeypatch):
    seen, generate = [], engine.model.generate
    monkeypatch.setattr(
        engine.model, "generate", lambda **kw: seen.append(kw["max_new_tokens"]) or generate(**kw)
    )
    ask(make(max_gen_toks=5), PROMPT, ROW)
    ask(make(max_gen_toks=5), PROMPT, ROW, max_new_tokens=3)
    assert seen == [5, 3]


@pytest.mark.parametrize("row", [{"context": ""}, {"context": "   "}, {"context": None}, {}])
def test_an_empty_document_leaves_the_prompt_raw(plain, make, row):
    assert likelihood(make(), "Context:  Who?", " Mira", row) == likelihood(plain, "Context:  Who?", " Mira")


def test_an_empty_continuation_after_soft_tokens_is_certain(make):
    assert likelihood(make(), PROMPT, "", ROW) == (0.0, True)
