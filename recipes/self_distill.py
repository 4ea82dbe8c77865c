"""Let a decoder answer questions itself, with the whole context as text, and train on its answers.

    python recipes/self_distill.py --model Qwen/Qwen2.5-7B-Instruct --records questions.jsonl -o train.jsonl

The paper trains so for LongBench v2: the decoder learns to read soft tokens as it reads text, not another
author's style. `--records` holds records with context and prompt; their answers, if any, are not read.
Contexts that do not fit the decoder's window are left out, and counted. What is done is kept in `OUT.part`,
from which the same command goes on; OUT appears when all is done.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from e2llm.errors import E2LLMError
from e2llm.modeling.checkpoints.parts import load_part, load_tokenizer
from e2llm.prompts import build_template, encode_text
from e2llm.records import Record, record_to_dict, write_records


def read_questions(path: Path) -> Iterator[Record]:
    """The records of a JSONL file that have a prompt, with an answer or not.

    Raises:
        FileNotFoundError: If there is no such file.
        E2LLMError: At the first bad line, with its number.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no such records file: {path}")
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                data = json.loads(line)
                record = Record(
                    data["context"],
                    data["prompt"],
                    "?" if data["prompt"].strip() else "",
                    evidence=tuple((int(start), int(end)) for start, end in data.get("evidence") or ()),
                    id=data.get("id") or "",
                    source=data.get("source") or "",
                )
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise E2LLMError(
                    f"{path}:{number}: {error!r}; a line is a JSON object with context and prompt"
                ) from error
            if not record.is_text_only:
                yield record


class Answerer:
    """A decoder that answers a question about a text."""

    def __init__(self, model: Any, tokenizer: Any, max_new_tokens: int) -> None:
        self.model, self.tokenizer, self.max_new_tokens = model.eval(), tokenizer, max_new_tokens
        self.template = build_template(tokenizer)
        self.window = getattr(model.config, "max_position_embeddings", None)

    @torch.no_grad()
    def __call__(self, record: Record) -> str | None:
        """The answer, by greedy search; empty if it was not finished, None if the context does not fit."""
        template = self.template
        ids = [
            *template.before_context,
            *encode_text(self.tokenizer, record.context),
            *template.before_prompt,
            *encode_text(self.tokenizer, template.answer_prefix + record.prompt),
            *template.before_answer,
        ]
        if self.window is not None and len(ids) + self.max_new_tokens > self.window:
            return None
        inputs = torch.tensor([ids], device=self.model.device)
        ends = [*template.after_answer[:1]]
        if self.tokenizer.eos_token_id is not None:
            ends.append(self.tokenizer.eos_token_id)
        made = self.model.generate(
            input_ids=inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            eos_token_id=ends or None,
            pad_token_id=ends[0] if ends else 0,
        )[0, len(ids) :].tolist()
        if ends and made[-1] not in ends:
            return ""
        return str(self.tokenizer.decode(made, skip_special_tokens=True)).strip()


def answer_all(answerer: Answerer, questions: Path, output: Path, settings: dict[str, Any]) -> dict[str, int]:
    """Answer what `OUT.part` does not hold yet; write the records with answers at the end.

    Each line of `OUT.part` is one question's outcome, after a first line with the settings; a last line that
    a kill cut short is made again.

    Returns:
        Numbers of records by outcome: `answered`, `too_long`, `unfinished`.
    """
    part = output.with_name(output.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    done = read_done(part, settings)
    with part.open("w" if done is None else "a", encoding="utf-8") as stream:
        if done is None:
            done = []
            stream.write(json.dumps(settings) + "\n")
        for number, record in enumerate(read_questions(questions)):
            if number < len(done):
                continue
            answer = answerer(record)
            done.append({"record": outcome(record, answer), "result": result_of(answer)})
            stream.write(json.dumps(done[-1], ensure_ascii=False) + "\n")
            stream.flush()
    counts = {
        name: sum(item["result"] == name for item in done) for name in ("answered", "too_long", "unfinished")
    }
    if not counts["answered"]:
        raise E2LLMError(
            f"{questions}: no question was answered ({counts}); take shorter contexts or raise "
            "--max-new-tokens"
        )
    write_records(output, (from_dict(item["record"]) for item in done if item["result"] == "answered"))
    part.unlink()
    return counts


def result_of(answer: str | None) -> str:
    """What became of a question."""
    return "too_long" if answer is None else "answered" if answer else "unfinished"


def outcome(record: Record, answer: str | None) -> dict[str, Any]:
    """The record with its answer; nothing where there is none."""
    if not answer:
        return {}
    evidence = record.evidence
    return record_to_dict(
        Record(record.context, record.prompt, answer, evidence=evidence, id=record.id, source=record.source)
    )


def from_dict(data: dict[str, Any]) -> Record:
    """A record of `outcome`."""
    evidence = tuple((start, end) for start, end in data.get("evidence", ()))
    return Record(**{**data, "evidence": evidence})


def read_done(part: Path, settings: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The outcomes that an earlier run has left, without a line cut short; None if there are none."""
    if not part.is_file():
        return None
    content = part.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if not whole:
        return None
    if len(whole) < len(content):
        os.truncate(part, len(whole))
    first, *lines = [json.loads(line) for line in whole.decode("utf-8").split("\n")[:-1]]
    if first != settings:
        raise E2LLMError(
            f"{part} was begun with {first}, now asked for is {settings}; go on with those, or remove it"
        )
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and answer."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="hub id or folder of a causal LM")
    parser.add_argument("--records", required=True, type=Path, help="JSONL with context and prompt")
    parser.add_argument("-o", "--output", required=True, type=Path, help="JSONL to write")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="longest answer (default 256)")
    options = parser.parse_args(arguments)
    try:
        if options.max_new_tokens < 1:
            raise E2LLMError(f"--max-new-tokens must be 1 or more, got {options.max_new_tokens}")
        if options.output.exists():
            raise E2LLMError(f"{options.output} is there already; name another file, or remove it")
        settings = {name: str(value) for name, value in vars(options).items() if name != "output"}
        next(read_questions(options.records), None)  # a missing file is told before the model is loaded
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        model, _ = load_part("decoder", options.model, {"dtype": dtype})
        answerer = Answerer(model.to(device), load_tokenizer(options.model), options.max_new_tokens)
        counts = answer_all(answerer, options.records, options.output, settings)
    except (E2LLMError, FileNotFoundError) as error:
        print(f"self_distill: {error}", file=sys.stderr)
        return 1
    print(
        f"{options.output}: {counts['answered']} answered; left out: {counts['too_long']} whose context does "
        f"not fit the window, {counts['unfinished']} whose answer was empty or longer than --max-new-tokens"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
