"""The model type `e2llm` of lm_eval; where nothing is compressed it equals lm_eval's own `hf`."""

import copy
import json
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from e2llm import Context, Engine
from e2llm.errors import ContextOverflowError, E2LLMError, MissingExtraError
from e2llm.evaluation import harness
from e2llm.inference.documents import Document
from tiny_models import TEXT, tiny_decoder_tokenizer, tiny_model, tiny_processor

pytest.importorskip("lm_eval", reason="lm_eval is not installed; it comes with: pip install 'e2llm[harness]'")

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

STORY = TEXT.strip()
PROMPT = f"Read this.\n\n{STORY}\n\nQuestion: Where is the key?\nAnswer:"
ROW = {"context": STORY, "question": "Where is the key?", "answer": "under the stone"}
PAIRS = [
    ("Where is the key?", " Under the stone."),
    ("Where is the key? ", "Under the stone."),
    ("Where is the key?\n\n", "a"),
    ("", "The harbour lights went out."),
    ("", "<s>The harbour"),
    ("<s>Where", " is it?"),
    (" ", "naïve ☃"),
    (PROMPT, " under"),
    (PROMPT, " over"),
    (PROMPT * 4, " It is under the stone."),
]


@pytest.fixture(scope="module")
def engine():
    return Engine(tiny_model(), tiny_processor())


@pytest.fixture
def make(engine):
    """Makes the model with settings; documents of any length are compressed."""
    return lambda **settings: harness.E2LLMHarness(engine, **{"min_context_tokens": 0, **settings})


@pytest.fixture
def plain(make):
    """Nothing is compressed, long prompts are cut off."""
    return make(soft_tokens=0, overflow="truncate", rolling="plain")


@pytest.fixture(scope="module")
def own(engine):
    """lm_eval's `hf` model on the same decoder."""
    tokenizer = copy.deepcopy(engine.processor.tokenizer)
    return HFLM(pretrained=engine.model.language_model, tokenizer=tokenizer, device="cpu", batch_size=1)


def requests(kind, *arguments, row=None):
    return [
        Instance(kind, row or {}, pair, index, ("tiny", index, 1)) for index, pair in enumerate(arguments)
    ]


def ask(model, prompt, row=None, **options):
    (answer,) = model.generate_until(requests("generate_until", (prompt, options), row=row))
    return answer


def likelihood(model, prompt, continuation, row=None):
    (answer,) = model.loglikelihood(requests("loglikelihood", (prompt, continuation), row=row))
    return answer


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


@pytest.mark.parametrize("text", ["", "The key.", STORY, STORY * 12])
def test_plain_rolling_equals_that_of_hf(plain, own, text):
    (ours,) = plain.loglikelihood_rolling(requests("loglikelihood_rolling", (text,)))
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
    return ids, context.soft_tokens


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
        output = engine.model(torch.tensor([ids]), labels=labels, chunk_embeds=context.soft_tokens)
    ours = likelihood(model, f"Read: {STORY}", " Then", ROW)[0]
    assert ours == pytest.approx(-output.token_losses.sum().item(), abs=1e-4)


def test_choices_of_one_token_take_one_pass(engine, make, monkeypatch):
    passes, forward = [], engine.model.language_model.forward
    monkeypatch.setattr(
        engine.model.language_model, "forward", lambda **kw: passes.append(1) or forward(**kw)
    )
    model = make()
    pairs = [(PROMPT, letter) for letter in "ABC"]
    together = model.loglikelihood(requests("loglikelihood", *pairs, row=ROW))
    assert len(passes) == 1
    assert together == [likelihood(make(), *pair, ROW) for pair in pairs]


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


def test_the_placeholder_is_no_greedy_choice(engine, make, monkeypatch):
    bias = torch.zeros(320)
    bias[engine.processor.chunk_token_id] = 1000.0
    forward = engine.model.language_model.forward

    def favour(**inputs):
        output = forward(**inputs)
        output.logits = output.logits + bias
        return output

    answer = ask(make(), "Who?", max_gen_toks=3)
    monkeypatch.setattr(engine.model.language_model, "forward", favour)
    assert likelihood(make(), "Who?", answer)[1]


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


def test_empty_prompts_and_continuations_are_answered(make):
    assert likelihood(make(), "", "") == (0.0, True)
    assert likelihood(make(), PROMPT, "", ROW) == (0.0, True)
    assert isinstance(ask(make(), "", max_gen_toks=3), str)


# --- long prompts -------------------------------------------------------------------------------------------


def test_what_was_done_with_prompts_is_counted(make):
    model = make(max_length=120, soft_tokens=1)
    likelihood(model, PROMPT, " under", ROW)
    likelihood(model, PROMPT * 2, " under", {})
    likelihood(model, "Who?", " Mira", ROW)
    counts = model.get_model_info()["e2llm_prompts"]
    assert {key: counts[key] for key in ("prompts", "document", "overflow", "raw")} == {
        "prompts": 3,
        "document": 1,
        "overflow": 1,
        "raw": 1,
    }
    assert counts["context positions"] < counts["context tokens"]
    json.dumps(model.get_model_info())


def test_a_prompt_that_is_too_long_names_its_task_and_document(make):
    model = make(max_length=60, overflow="error")
    with pytest.raises(ContextOverflowError, match=r"^tiny, document 0: the prompt is \d+ tokens too long"):
        likelihood(model, PROMPT, " under", {})


def test_an_answer_longer_than_the_window_is_refused(make):
    with pytest.raises(ContextOverflowError, match=r"takes 60 of 60 positions .* lower max_gen_toks"):
        ask(make(max_length=60), PROMPT, ROW, max_gen_toks=60)


def test_every_length_of_prompt_fits_the_window(make):
    model = make(max_length=60, soft_tokens=2)
    for size in range(1, 400, 7):
        likelihood(model, PROMPT[-size:], " under the stone.", ROW)
        ask(model, PROMPT[:size], ROW, max_gen_toks=1)
    assert min(model.counts[way] for way in ("document", "overflow", "raw")) > 0


def test_a_prompt_one_longer_than_the_window_stays_raw_as_its_last_token_is_not_read(engine, make, own):
    length = len(engine.processor.tokenizer(PROMPT + "A").input_ids)
    model = make(max_length=length - 1)
    assert likelihood(model, PROMPT, "A")[0] == pytest.approx(likelihood(own, PROMPT, "A")[0], abs=1e-4)
    assert model.counts["raw"] == 1
    likelihood(make(max_length=length - 2), PROMPT, "A")


def test_a_continuation_of_more_tokens_than_expected_still_fits(make, monkeypatch):
    model = make(max_length=60, soft_tokens=4)
    encode, answer = model.layout.raw_text.encode, " It is under the blue stone."
    monkeypatch.setattr(
        model.layout.raw_text,
        "encode",
        lambda text, **options: [] if text == answer else encode(text, **options),
    )
    likelihood(model, PROMPT, answer, ROW)
    assert model.counts["raw"] == model.counts["cut off"] == 0


# --- rolling ------------------------------------------------------------------------------------------------


def rolling(model, text):
    (total,) = model.loglikelihood_rolling(requests("loglikelihood_rolling", (text,)))
    return total


def test_a_text_that_fits_is_scored_as_plain_text(make, plain):
    assert rolling(make(), STORY) == rolling(plain, STORY)


def test_a_longer_text_is_scored_after_soft_tokens_of_what_came_before(engine, make):
    model = make(max_length=60, soft_tokens=2, raw_tokens=30)
    encoded = engine.processor.tokenizer(STORY, return_offsets_mapping=True)
    ids = encoded.input_ids
    cut = encoded.offset_mapping[60][0]
    context = engine.read(STORY[:cut], progress=False)
    num_soft = 2 * len(context)
    placeholders = [engine.processor.chunk_token_id] * num_soft
    windows = [([1, *ids[:60]], None), ([1, *placeholders, *ids[60:]], context.soft_tokens)]
    assert 0 < len(ids) - 60 <= 60 - num_soft
    total = 0.0
    for window, soft_tokens in windows:
        scored = ids[:60] if soft_tokens is None else ids[60:]
        with torch.no_grad():
            logits = engine.model(torch.tensor([window]), chunk_embeds=soft_tokens).logits[0]
        logits = logits[-len(scored) - 1 : -1].log_softmax(-1)
        total += logits[range(len(scored)), scored].sum().item()
    assert rolling(model, STORY) == pytest.approx(total, abs=1e-3)


def test_every_token_of_a_long_text_is_scored_once(engine, make, monkeypatch):
    model, scored = make(max_length=60, soft_tokens=2), []
    score = model._scorer.score
    monkeypatch.setattr(
        model._scorer,
        "score",
        lambda ids, count, *rest: scored.extend(ids[-count:]) or score(ids, count, *rest),
    )
    rolling(model, STORY * 4)
    assert scored == engine.processor.tokenizer(STORY * 4).input_ids
    assert model.counts["windows after soft tokens"] > 3


def test_a_window_stands_behind_the_latest_chunks_of_what_came_before(engine, make, monkeypatch):
    model, text = make(max_length=60, soft_tokens=4, raw_tokens=52), STORY * 2
    pieces, seen, append, score = [], [], Context.append, model._scorer.score
    monkeypatch.setattr(Context, "append", lambda self, piece: pieces.append(piece) or append(self, piece))
    monkeypatch.setattr(model._scorer, "score", lambda *given: seen.append(given) or score(*given))
    rolling(model, text)
    assert len(seen) > 2
    assert text.startswith("".join(pieces))
    last = engine.read([Document(str(place), piece) for place, piece in enumerate(pieces)], progress=False)
    assert torch.allclose(seen[-1][2], last.soft_tokens[-2:])


def test_raw_tokens_that_leave_no_room_for_soft_tokens_are_refused(make):
    with pytest.raises(ContextOverflowError, match="lower raw_tokens"):
        rolling(make(max_length=60, raw_tokens=59, soft_tokens=4), STORY)


# --- chat ---------------------------------------------------------------------------------------------------

CHAT = (
    "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}bot:{% endif %}"
)


def test_a_chat_keeps_its_control_tokens_around_the_soft_tokens():
    tokenizer = tiny_decoder_tokenizer(CHAT)
    engine = Engine(tiny_model(decoder_tokenizer=tokenizer), tiny_processor(decoder_tokenizer=tokenizer))
    model = harness.E2LLMHarness(engine, soft_tokens=1, min_context_tokens=0)
    prompt = model.apply_chat_template([{"role": "user", "content": PROMPT}])
    laid = model.layout.lay_out(prompt, ROW, 400)
    assert (prompt[:9], model.layout.opening) == ("<s>user: ", "<s>user: ")
    assert laid.head.count(tokenizer.bos_token_id) == 1
    assert tokenizer.eos_token_id in model.layout.raw_text.encode(laid.tail)
    assert model.chat_template(True) == CHAT


def test_a_decoder_without_a_chat_template_says_so(make):
    with pytest.raises(E2LLMError, match="no chat template; leave out apply_chat_template"):
        make().apply_chat_template([{"role": "user", "content": "Hello"}])


# --- beside lm_eval -----------------------------------------------------------------------------------------


def tiny_task(kind, **settings):
    """A task of two questions on one story, made here."""
    from datasets import Dataset

    rows = [{**ROW, "id": 0}, {**ROW, "question": "How many boats?", "answer": "seven", "id": 1}]
    return {
        "task": f"tiny_{kind}",
        "custom_dataset": lambda **_: {"test": Dataset.from_list(rows)},
        "test_split": "test",
        "output_type": kind,
        "doc_to_text": "Read this.\n\n{{context}}\n\nQuestion: {{question}}\nAnswer:",
        "doc_to_target": "{{answer}}",
        **settings,
    }


TASKS = [
    tiny_task("generate_until", generation_kwargs={"until": ["\n"], "max_gen_toks": 4}),
    tiny_task("multiple_choice", doc_to_choice=["under the stone", "seven"], doc_to_target="{{id}}"),
    tiny_task("loglikelihood_rolling", doc_to_text="", doc_to_target="{{context}}"),
]


@pytest.fixture
def task_manager(monkeypatch):
    """lm_eval's, without the ten seconds in which it looks for its own tasks and at the machine."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
    return partial(TaskManager, include_defaults=False)


@pytest.fixture
def evaluate(task_manager):
    """Runs lm_eval on the tiny tasks."""
    options = {"tasks": TASKS, "task_manager": task_manager(), "bootstrap_iters": 0}
    return lambda model, **more: lm_eval.simple_evaluate(model, **options, **more)


def test_lm_eval_runs_its_three_kinds_of_tasks(make, evaluate):
    results = evaluate(make(soft_tokens=2))
    scores = results["results"]
    assert 0 <= scores["tiny_generate_until"]["exact_match,none"] <= 1
    assert scores["tiny_multiple_choice"]["acc,none"] in (0.0, 0.5, 1.0)
    assert scores["tiny_loglikelihood_rolling"]["word_perplexity,none"] > 1
    assert results["config"]["e2llm_prompts"]["document"] == 6
    arguments = [sample["arguments"][0] for sample in results["samples"]["tiny_generate_until"]]
    assert STORY in arguments[0][0]


def test_without_compression_the_scores_are_those_of_hf(plain, own, evaluate):
    ours, theirs = (evaluate(model)["results"] for model in (plain, own))
    for task, scores in theirs.items():
        for name, value in scores.items():
            if isinstance(value, float):
                assert ours[task][name] == pytest.approx(value, rel=1e-4), (task, name)


def test_answers_that_lm_eval_keeps_are_not_asked_for_again(make, evaluate, tmp_path, monkeypatch):
    first = evaluate(make(), use_cache=str(tmp_path / "answers"))["results"]
    again = make()
    monkeypatch.setattr(again.layout, "lay_out", lambda *_: pytest.fail("asked again"))
    assert evaluate(again, use_cache=str(tmp_path / "answers"))["results"] == first


def test_lm_eval_gets_each_answer_as_it_comes(make):
    model, kept = make(), []
    model.set_cache_hook(SimpleNamespace(add_partial=lambda *answer: kept.append(answer)))
    answer = likelihood(model, "Who?", " Mira")
    assert kept == [("loglikelihood", ("Who?", " Mira"), answer)]


def test_lm_eval_knows_the_model_type_and_still_its_own():
    assert get_model("e2llm") is harness.E2LLMHarness is harness.harness_class()
    assert get_model("hf") is HFLM


def test_unknown_model_arguments_are_refused():
    with pytest.raises(
        E2LLMError, match=r"unknown model argument soft_token; known are: pretrained, soft_tok"
    ):
        harness.E2LLMHarness(pretrained="mini", soft_token=4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"soft_tokens": 5}, "from 1 to 4, got 5"),
        ({"max_length": 513}, "max_length=513 is more than the decoder's window of 512"),
        ({"raw_tokens": 512}, "raw_tokens=512 fills all 512 positions"),
        ({"device": "cpu"}, "go with a name, not with an engine"),
    ],
)
def test_arguments_beyond_the_model_are_refused(make, arguments, words):
    with pytest.raises(E2LLMError, match=words):
        make(**arguments)


def test_a_precision_is_named(engine):
    with pytest.raises(E2LLMError, match="dtype='half': choose one of: auto, float32"):
        harness.E2LLMHarness(pretrained="mini", dtype="half")


def test_importing_the_module_does_not_load_lm_eval():
    code = (
        "import sys, e2llm.evaluation.harness; assert not {'lm_eval', 'torch', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_without_lm_eval_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lm_eval.models", None)
    monkeypatch.setattr(harness, "harness_class", harness.harness_class.__wrapped__)  # it is made once
    with pytest.raises(MissingExtraError, match=r"pip install 'e2llm\[harness\]'"):
        harness.harness_class()
    assert harness.main([]) == 1
    assert capsys.readouterr().err.startswith("error: lm_eval is not installed")


def test_the_command_line_runs_the_embedded_model_offline(tmp_path, task_manager, monkeypatch, capsys):
    monkeypatch.setattr("lm_eval.tasks.TaskManager", task_manager)
    (tmp_path / "rows.jsonl").write_text(json.dumps({**ROW, "context": TEXT * 20}) + "\n")
    files = {"test": str(tmp_path / "rows.jsonl")}
    task = tiny_task("generate_until", generation_kwargs={"until": ["\n"], "max_gen_toks": 4})
    task |= {"dataset_path": "json", "dataset_kwargs": {"data_files": files, "cache_dir": str(tmp_path)}}
    del task["custom_dataset"]
    (tmp_path / "tiny.yaml").write_text(json.dumps(task))
    command = "--model e2llm --model_args pretrained=mini,soft_tokens=1 --tasks tiny_generate_until"
    places = ["--include_path", str(tmp_path), "--output_path", str(tmp_path / "out")]
    assert harness.main([*command.split(), *places]) == 0
    assert "|tiny_generate_until|" in capsys.readouterr().out
    (file,) = (tmp_path / "out").rglob("results_*.json")
    assert json.loads(file.read_text())["config"]["e2llm_prompts"]["document"] == 1


def test_a_wrong_argument_on_the_command_line_is_one_line(task_manager, monkeypatch, capsys):
    monkeypatch.setattr("lm_eval.tasks.TaskManager", task_manager)
    assert harness.main(["--model", "e2llm", "--model_args", "overflow=ignore", "--tasks", "tiny"]) == 1
    assert "error: " in capsys.readouterr().err
