"""Write what published packages say of the pairs in official_pairs.json; run by hand, not by the tests.

In an environment of its own, so that none of this becomes a dependency:

    python -m venv /tmp/official && . /tmp/official/bin/activate && pip install wheel setuptools
    pip install --no-build-isolation rouge_score==0.1.2 sacrebleu==2.6.0 editdistance==0.8.1 \
        thefuzz==0.22.1 fuzzywuzzy==0.18.0 python-Levenshtein==0.12.2 nltk==3.10.4
    pip install --no-deps transformers==4.44.2 lm_eval==0.4.13 opencompass==0.5.4 llama-index-core==0.14.25
    python tests/evaluation/make_official_pairs.py

Pairs are added to the JSON file by hand, with a prediction and references; this fills in the rest. The last
four packages are not run as they are (they need far more than a metric): single functions are taken out of
the installed files, unchanged. llama-index-core carries NLTK's Punkt model.
"""

import __future__

import ast
import collections
import importlib.metadata
import json
import re
import string
from pathlib import Path
from types import SimpleNamespace

import editdistance
import Levenshtein
import nltk
import sacrebleu
from fuzzywuzzy import fuzz as fuzzywuzzy
from rouge_score.rouge_scorer import RougeScorer
from thefuzz import fuzz as thefuzz

FILE = Path(__file__).with_name("official_pairs.json")
SOURCES = {
    "rouge_1, rouge_2, rouge_l, rouge_lsum": ("rouge_score", "nltk", "llama-index-core"),
    "squad_exact, squad_f1": ("transformers",),
    "longbench_f1": ("lm_eval",),
    "ruler_all": ("lm_eval",),
    "ruler_any": ("opencompass",),
    "fuzzywuzzy_percent": ("fuzzywuzzy", "python-Levenshtein"),
    "thefuzz_percent": ("thefuzz", "rapidfuzz"),
    "levenshtein_ratio": ("python-Levenshtein",),
    "character_edits": ("editdistance",),
    "bleu_percent": ("sacrebleu",),
}


def published(package, file, *names):
    """Functions and classes out of a file of an installed package, without running the rest of it."""
    path = importlib.metadata.distribution(package).locate_file(file)
    nodes = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if defines(node, names)]
    for node in nodes:
        node.decorator_list = []
    assert sorted(node.name for node in nodes) == sorted(names), (file, names)
    space = {"re": re, "string": string, "collections": collections, "Counter": collections.Counter}
    space["BaseEvaluator"] = object
    flags = __future__.annotations.compiler_flag
    exec(compile(ast.Module(body=nodes, type_ignores=[]), str(path), "exec", flags=flags), space)
    return SimpleNamespace(**space)


def defines(node, names):
    return isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in names


def punkt_lines(text):
    """A sentence a line, as the scripts of SQuALITY, SCROLLS and the summarization examples lay texts out."""
    return "\n".join(nltk.sent_tokenize(text.strip()))


def official_scores(prediction, references):
    """What each package says, by the names of SOURCES; those of one reference take the first."""
    rouge = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=True).score_multi(
        [punkt_lines(reference) for reference in references], punkt_lines(prediction)
    )
    example = SimpleNamespace(qas_id="x", answers=[{"text": reference} for reference in references])
    exact, f1 = SQUAD.get_raw_scores([example], {"x": prediction})
    cleaned = RULER.postprocess_pred([prediction])
    reference = references[0]
    return {
        "rouge_1": rouge["rouge1"].fmeasure,
        "rouge_2": rouge["rouge2"].fmeasure,
        "rouge_l": rouge["rougeL"].fmeasure,
        "rouge_lsum": rouge["rougeLsum"].fmeasure,
        "squad_exact": exact["x"],
        "squad_f1": f1["x"],
        "longbench_f1": max(LONGBENCH.qa_f1_score(prediction, reference) for reference in references),
        "ruler_all": RULER.string_match_all(cleaned, [references]),
        "ruler_any": RULER_QA.RulerQaEvaluator().score(cleaned, [references])["score"] / 100,
        "fuzzywuzzy_percent": fuzzywuzzy.ratio(prediction, reference),
        "thefuzz_percent": thefuzz.ratio(prediction, reference),
        "levenshtein_ratio": Levenshtein.ratio(prediction, reference),
        "character_edits": editdistance.eval(prediction, reference),
        "bleu_percent": sacrebleu.sentence_bleu(prediction, [reference]).score,
    }


def main():
    data = json.loads(FILE.read_text(encoding="utf-8"))
    sources = {
        names: [f"{package} {importlib.metadata.version(package)}" for package in packages]
        for names, packages in SOURCES.items()
    }
    for pair in data["pairs"]:
        pair["official"] = official_scores(pair["prediction"], pair["references"])
    parts = [
        f' "sources": {json.dumps(sources, indent=2)}',
        f' "pairs": {one_a_line(data["pairs"])}',
    ]
    FILE.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def one_a_line(entries):
    return "[\n  " + ",\n  ".join(json.dumps(entry, ensure_ascii=False) for entry in entries) + "\n ]"


if __name__ == "__main__":
    nltk.data.path.insert(
        0,
        str(
            importlib.metadata.distribution("llama-index-core").locate_file(
                "llama_index/core/_static/nltk_cache"
            )
        ),
    )
    SQUAD = published(
        "transformers",
        "transformers/data/metrics/squad_metrics.py",
        *("normalize_answer", "get_tokens", "compute_exact", "compute_f1", "get_raw_scores"),
    )
    LONGBENCH = published(
        "lm_eval", "lm_eval/tasks/longbench/metrics.py", "normalize_answer", "f1_score", "qa_f1_score"
    )
    RULER = published(
        "lm_eval", "lm_eval/tasks/ruler/common_utils.py", "postprocess_pred", "string_match_all"
    )
    RULER_QA = published("opencompass", "opencompass/datasets/ruler/ruler_qa.py", "RulerQaEvaluator")
    main()
