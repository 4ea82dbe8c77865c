"""Turn context, instruction and answer into the model's input.

Shapes: B samples, C chunks of the whole batch, T encoder tokens per chunk, L decoder tokens.
"""

from collections.abc import Container, Sequence
from typing import Any

import torch
from transformers import AutoConfig, BatchFeature, ProcessorMixin
from transformers.utils import cached_file

from e2llm.chunking import Chunk, split_text
from e2llm.errors import CheckpointError, E2LLMError
from e2llm.modeling.checkpoints.manifest import hub_options
from e2llm.modeling.checkpoints.parts import encoder_token_limit, load_tokenizer, reject_trust_remote_code
from e2llm.modeling.checkpoints.reporting import readable_errors
from e2llm.modeling.checkpoints.sources import find_model
from e2llm.modeling.decoder_input import DecoderInput, numbers_per_place, one_per_chunk, one_per_sample
from e2llm.modeling.placeholders import choose_placeholder
from e2llm.modeling.rates import Rate, check_rate, count_soft_tokens
from e2llm.prompts import IGNORE_INDEX, PromptTemplate, build_template, encode_texts
from e2llm.surrogates import reject_lone_surrogates

MIN_CHUNK_TOKENS = 16  # beside a heading
_NEEDED_FILES = ("processor_config.json", "encoder_tokenizer/tokenizer_config.json")


class E2LLMProcessor(ProcessorMixin):  # type: ignore[misc]
    """Splits contexts into chunks and lays out the decoder's input.

    Args:
        tokenizer: The decoder's tokenizer.
        encoder_tokenizer: The encoder's tokenizer.
        chunk_token: The placeholder, a token of `tokenizer` (see `choose_placeholder`).
        chunk_size_chars: Longest chunk, in characters (paper: 512).
        overlap_chars: Characters that a chunk repeats of the one before it.
        chunk_kind: `prose`, `code` or `tokens`.
        max_chunk_tokens: Longest chunk in encoder tokens, special tokens included; no chunk is cut to fit,
            longer ones are split.
        num_soft_tokens: Soft tokens per chunk when a call does not say.
        rate: Encoder tokens per soft token when a call does not say, instead of `num_soft_tokens`; for
            models whose dial is the rate.
    """

    def __init__(
        self,
        tokenizer: Any = None,
        encoder_tokenizer: Any = None,
        chunk_token: str = "<|chunk|>",
        chunk_size_chars: int = 512,
        overlap_chars: int = 0,
        chunk_kind: str = "prose",
        max_chunk_tokens: int = 512,
        num_soft_tokens: int = 1,
        rate: Rate | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(tokenizer, encoder_tokenizer, **kwargs)
        self.chunk_token = chunk_token
        self.chunk_size_chars = chunk_size_chars
        self.overlap_chars = overlap_chars
        self.chunk_kind = chunk_kind
        self.max_chunk_tokens = max_chunk_tokens
        self.num_soft_tokens = num_soft_tokens
        self.rate = None if rate is None else check_rate(rate)
        self._template: tuple[str | None, PromptTemplate] | None = None
        if encoder_tokenizer is not None and encoder_tokenizer.pad_token_id is None:
            encoder_tokenizer.pad_token = encoder_tokenizer.eos_token or encoder_tokenizer.unk_token
        if tokenizer is not None:
            if tokenizer.pad_token_id is None:
                tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or chunk_token
            if chunk_token not in tokenizer.get_vocab():
                raise E2LLMError(f"the placeholder {chunk_token!r} is not in the decoder's tokenizer")

    @classmethod
    def from_parts(
        cls,
        encoder: str | None = None,
        decoder: str | None = None,
        *,
        encoder_tokenizer: Any = None,
        decoder_tokenizer: Any = None,
        **settings: Any,
    ) -> "E2LLMProcessor":
        """Make a processor for a model made by `E2LLMForConditionalGeneration.from_parts`.

        Args:
            encoder: Hub id or folder of the encoder; not needed with `encoder_tokenizer`.
            decoder: The same for the decoder.
            encoder_tokenizer: A tokenizer instance instead of the encoder's.
            decoder_tokenizer: The same for the decoder.
            settings: `chunk_size_chars`, `overlap_chars`, `chunk_kind`, `max_chunk_tokens`,
                `num_soft_tokens`, `rate`.
        """
        for part, name, tokenizer in (
            ("encoder", encoder, encoder_tokenizer),
            ("decoder", decoder, decoder_tokenizer),
        ):
            if name is None and tokenizer is None:
                raise E2LLMError(f"give {part}= (hub id or folder) or {part}_tokenizer=")
        encoder_tokenizer = encoder_tokenizer or load_tokenizer(str(encoder))
        decoder_tokenizer = decoder_tokenizer or load_tokenizer(str(decoder))
        if "max_chunk_tokens" not in settings:
            config = None
            if encoder is not None:
                config = AutoConfig.from_pretrained(find_model(encoder), trust_remote_code=False)
            settings["max_chunk_tokens"] = encoder_token_limit(encoder_tokenizer, config)
        settings.setdefault("chunk_token", choose_placeholder(decoder_tokenizer).token)
        return cls(decoder_tokenizer, encoder_tokenizer, **settings)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load by folder, hub id or embedded name (`smol`).

        Raises:
            CheckpointError: If a file is missing or damaged.
        """
        reject_trust_remote_code(kwargs)
        name = str(pretrained_model_name_or_path)
        with readable_errors(f"processor of {name}"):
            found = hub_options(kwargs)
            source = find_model(name, **found)
            for file in _NEEDED_FILES:
                # without them transformers takes default settings, and one tokenizer for both parts
                options = {"_raise_exceptions_for_missing_entries": False, **found}
                if cached_file(source, file, **options) is None:
                    raise CheckpointError(f"{name}: {file} is missing; the checkpoint is incomplete")
            return super().from_pretrained(source, *args, trust_remote_code=False, **kwargs)

    def to_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What `save_pretrained` writes."""
        output = dict(super().to_dict(*args, **kwargs))
        output.pop("_template", None)
        return output

    @property
    def chunk_token_id(self) -> int:
        """The placeholder's id."""
        return int(self.tokenizer.convert_tokens_to_ids(self.chunk_token))

    @property
    def template(self) -> PromptTemplate:
        """Ids around the texts, by the chat template that the decoder's tokenizer has now."""
        chat_template = getattr(self.tokenizer, "chat_template", None)
        if self._template is None or self._template[0] != chat_template:
            self._template = (chat_template, build_template(self.tokenizer))
        return self._template[1]

    # --- pieces -------------------------------------------------------------------------------------------

    def split(
        self,
        context: str,
        chunk_size_chars: int | None = None,
        *,
        overlap_chars: int | None = None,
        kind: str | None = None,
        heading: str = "",
        fitting: Container[str] = (),
    ) -> list[Chunk]:
        """Split a context into chunks that each fit the encoder together with a heading.

        Args:
            context: The text.
            chunk_size_chars: Longest chunk; by default the processor's, as for the next two.
            overlap_chars: Characters that a chunk repeats of the one before it.
            kind: `prose`, `code` or `tokens`.
            heading: Text that will stand before each chunk.
            fitting: Chunk texts that are known to fit without a heading and need not be measured.

        Raises:
            E2LLMError: If an argument is out of range, or the heading leaves no room.
        """
        max_tokens = self.max_chunk_tokens - self._count_heading(heading)
        if max_tokens < MIN_CHUNK_TOKENS:
            raise E2LLMError(
                f"the heading {heading.strip()!r} leaves {max_tokens} of {self.max_chunk_tokens} encoder "
                f"tokens for each chunk; at least {MIN_CHUNK_TOKENS} are needed: shorten it"
            )
        return split_text(
            context,
            self.chunk_size_chars if chunk_size_chars is None else chunk_size_chars,
            self.overlap_chars if overlap_chars is None else overlap_chars,
            self.chunk_kind if kind is None else kind,
            tokenizer=self.encoder_tokenizer,
            max_tokens=max_tokens,
            fitting=() if heading else fitting,
        )

    def _count_heading(self, heading: str) -> int:
        """Encoder tokens that a heading takes of each chunk."""
        if not heading:
            return 0
        reject_lone_surrogates(heading, "the heading")
        ids = self.encoder_tokenizer(
            heading, add_special_tokens=False, split_special_tokens=True, verbose=False
        ).input_ids
        return len(ids) + 1  # after a heading, the chunk's first word may be tokenized differently

    def fit_heading(self, heading: str) -> str:
        """A heading that leaves half of the encoder's tokens to the chunk; its start is cut off to fit."""
        most = self.max_chunk_tokens // 2
        while heading and self._count_heading(heading) > most:
            heading = heading[max(1, len(heading) // 8) :]
        return heading

    def lay_out(
        self,
        chunks: Sequence[str],
        prompt: str,
        answer: str | None = None,
        *,
        num_soft_tokens: int | Sequence[int] | None = None,
        rate: Rate | Sequence[Rate] | None = None,
        expand: Sequence[int] = (),
        history: Sequence[tuple[str, str]] = (),
        labels_history: bool = False,
        tools: Sequence[dict[str, Any]] = (),
    ) -> DecoderInput:
        """Lay out one sample.

        Args:
            chunks: Texts of the context's chunks, in order.
            prompt: The instruction.
            answer: The text to predict; None at inference.
            num_soft_tokens: Placeholders per chunk: one number, or one for each chunk.
            rate: Encoder tokens per placeholder, instead of `num_soft_tokens`: one rate, or one for each
                chunk.
            expand: Indices of chunks that are given as raw text instead of soft tokens.
            history: Earlier instructions with their answers, between the chunks and the prompt.
            labels_history: Predict the answers of the history, too.
            tools: See `build_template`.

        Raises:
            E2LLMError: If a number or a rate is invalid, `expand` names an unknown chunk, or there is a
                history and the chat template takes one turn only, or it takes no tools.
        """
        expanded = set(expand)
        if expanded and not expanded <= set(range(len(chunks))):
            raise E2LLMError(
                f"expand names chunks {sorted(expanded)}, but there are only 0 to {len(chunks) - 1}"
            )
        soft = [index for index in range(len(chunks)) if index not in expanded]
        counts = dict(zip(soft, self.count_soft_tokens(chunks, soft, num_soft_tokens, rate), strict=True))
        template = build_template(self.tokenizer, tools) if tools else self.template
        placeholder = self.chunk_token_id
        ids = list(template.before_context)
        for index, text in enumerate(chunks):
            ids += self.encode(text) if index in expanded else [placeholder] * counts[index]
        ids += template.before_prompt
        if history and template.between_turns is None:
            raise E2LLMError("the decoder's chat template takes one turn only; ask without a history")
        earlier = []
        for earlier_prompt, earlier_answer in history:
            ids += self.encode(template.answer_prefix + earlier_prompt)
            ids += template.before_answer
            start = len(ids)
            ids += self.encode(template.answer_prefix + earlier_answer)
            earlier.append((start, len(ids) + len(template.after_answer)))
            ids += template.between_turns or []
        ids += self.encode(template.answer_prefix + prompt)
        ids += template.before_answer
        labels = [IGNORE_INDEX] * len(ids)
        for start, end in earlier if labels_history else []:
            labels[start:end] = ids[start:end]
        if answer is not None:
            answer_ids = [*self.encode(template.answer_prefix + answer), *template.after_answer]
            ids, labels = ids + answer_ids, labels + answer_ids
        texts, start = [chunks[index] for index in soft], len(template.before_context)
        return DecoderInput(ids, labels, texts, list(counts.values()), start)

    def count_soft_tokens(
        self,
        chunks: Sequence[str],
        soft: Sequence[int],
        num_soft_tokens: int | Sequence[int] | None,
        rate: Rate | Sequence[Rate] | None,
    ) -> list[int]:
        """How many placeholders each of the chunks `soft` has; see `lay_out`."""
        if rate is None and num_soft_tokens is None:
            rate = self.rate
        numbers = self.num_soft_tokens if num_soft_tokens is None and rate is None else num_soft_tokens
        wanted = one_per_chunk(len(chunks), soft, numbers, rate)
        if rate is None:
            return wanted
        lengths = map(len, self.encode_chunk_ids([chunks[index] for index in soft])) if soft else []
        return [count_soft_tokens(length, item) for length, item in zip(lengths, wanted, strict=True)]

    def encode(self, text: str) -> list[int]:
        """Decoder token ids of a user's text, in which nothing becomes a control token."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Decoder token ids of several texts, each as `encode` gives them, but quicker."""
        rows = encode_texts(self.tokenizer, texts)
        placeholder = self.chunk_token_id
        if any(placeholder in ids for ids in rows):
            raise E2LLMError(
                f"the text becomes the placeholder {self.chunk_token!r} when encoded; use another chunk_token"
            )
        return rows

    def collate(self, samples: Sequence[DecoderInput], *, with_labels: bool = False) -> BatchFeature:
        """Pad samples on the left into a batch of tensors, and their chunks into one flat batch."""
        if not samples:
            raise E2LLMError("a batch needs at least one sample")
        longest = max(len(sample.input_ids) for sample in samples)

        def padded(rows: list[list[int]], value: int) -> torch.Tensor:
            return torch.tensor([[value] * (longest - len(row)) + row for row in rows], dtype=torch.long)

        data = {
            "input_ids": padded([sample.input_ids for sample in samples], self.tokenizer.pad_token_id),
            "attention_mask": padded([[1] * len(sample.input_ids) for sample in samples], 0),
        }
        if with_labels:
            data["labels"] = padded([sample.labels for sample in samples], IGNORE_INDEX)
        texts = [text for sample in samples for text in sample.chunks]
        if texts:
            data.update(self.encode_chunk_texts(texts))
            data.update(numbers_per_place(samples))
        return BatchFeature(data)

    def encode_chunk_texts(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Encoder ids and mask, `[C, T]` each, right-padded, of chunks that fit the encoder."""
        encoded = self.encoder_tokenizer(
            list(texts), padding=True, padding_side="right", split_special_tokens=True, return_tensors="pt"
        )
        self._check_chunk_length(encoded.input_ids.shape[1])
        return {"chunk_input_ids": encoded.input_ids, "chunk_attention_mask": encoded.attention_mask}

    def encode_chunk_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Encoder ids of chunks that fit the encoder, a list each, without padding."""
        rows: list[list[int]] = self.encoder_tokenizer(
            list(texts), split_special_tokens=True, return_attention_mask=False, verbose=False
        ).input_ids
        self._check_chunk_length(max((len(row) for row in rows), default=0))
        return rows

    def _check_chunk_length(self, length: int) -> None:
        if length > self.max_chunk_tokens:
            raise E2LLMError(
                f"a chunk has {length} encoder tokens, but the limit is {self.max_chunk_tokens}; split it"
            )

    def decode_answer(self, ids: Any, after: Sequence[int] = ()) -> str:
        """Return the text of generated ids, without control tokens; after other ids, with its white space."""
        text = str(self.tokenizer.decode([*after, *ids] if after else ids, skip_special_tokens=True))
        if not after:
            return text.strip()
        return text[len(str(self.tokenizer.decode(after, skip_special_tokens=True))) :]

    def __call__(
        self,
        context: str | Sequence[str] | None = None,
        prompt: str | Sequence[str] | None = None,
        answer: str | Sequence[str] | None = None,
        *,
        num_soft_tokens: int | None = None,
        rate: Rate | None = None,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Prepare one sample or a ragged batch.

        Args:
            context: A text, or one per sample; None or empty for none.
            prompt: An instruction, or one per sample.
            answer: For training: the texts to predict; `labels` are then made as well.
            num_soft_tokens: Soft tokens per chunk, for the whole batch.
            rate: Encoder tokens per soft token, in its place.
            return_tensors: Only `pt`.

        Returns:
            `input_ids` and `attention_mask` `[B, L]`, left-padded, `labels` with answers, and
            `chunk_input_ids` and `chunk_attention_mask` `[C, T]` if any context has text, and
            `chunk_num_soft_tokens` `[C]` if the chunks differ in it.
        """
        if return_tensors != "pt":
            raise E2LLMError(f"return_tensors must be 'pt', got {return_tensors!r}")
        if prompt is None:
            raise E2LLMError("prompt= is missing; give the instruction or question")
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        contexts = one_per_sample("context", context, len(prompts))
        answers = one_per_sample("answer", answer, len(prompts))
        samples = [
            self.lay_out(
                [chunk.text for chunk in self.split(text)] if text else [],
                question,
                target,
                num_soft_tokens=num_soft_tokens,
                rate=rate,
            )
            for text, question, target in zip(contexts, prompts, answers, strict=True)
        ]
        return self.collate(samples, with_labels=answer is not None)
