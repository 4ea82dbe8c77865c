"""Add an adapter: one class, one dictionary line. Here one that averages over equal parts of a chunk.

python examples/add_an_adapter.py
"""

import torch
from torch import nn

from e2llm import E2LLMForConditionalGeneration, E2LLMProcessor, Engine
from e2llm.modeling.adapters import ADAPTERS, Adapter


class PartsAdapter(Adapter):
    """Each soft token is a projection of the mean over one of the chunk's parts.

    The first K soft tokens must not depend on K, so there are always as many parts as soft tokens at most.
    """

    def __init__(self, encoder_size, decoder_size, *, max_soft_tokens, num_heads, pooling, scale):
        super().__init__()
        self.max_soft_tokens = max_soft_tokens
        self.projection = nn.Linear(encoder_size, decoder_size)
        self.scale = nn.Parameter(torch.tensor(float(scale)))

    def forward(self, states, mask, num_soft_tokens):  # [C, T, E], [C, T] -> [C, K, D]
        places = mask.cumsum(dim=1) - 1  # of each real token
        lengths = mask.sum(dim=1, keepdim=True)
        part = (places * self.max_soft_tokens) // lengths.clamp(min=1)
        wanted = torch.arange(num_soft_tokens).view(1, -1, 1)
        belongs = (part.unsqueeze(1) == wanted) & mask.bool().unsqueeze(1)
        weights = belongs.to(states.dtype)
        means = weights @ states / weights.sum(dim=2, keepdim=True).clamp(min=1)
        return self.projection(means) * self.scale


def main() -> None:
    ADAPTERS["parts"] = PartsAdapter
    smol = Engine.from_pretrained("smol")  # only for its parts
    encoder, decoder = smol.model.chunk_encoder, smol.model.language_model
    model = E2LLMForConditionalGeneration.from_parts(
        encoder, decoder, adapter="parts", max_soft_tokens=4, decoder_tokenizer=smol.processor.tokenizer
    )
    processor = E2LLMProcessor.from_parts(
        encoder_tokenizer=smol.processor.encoder_tokenizer, decoder_tokenizer=smol.processor.tokenizer
    )
    engine = Engine(model, processor)
    context = engine.read("Mira counted the boats. The key is under the blue stone. " * 20)
    print(f"soft tokens of {len(context)} chunks: {tuple(context.kept.shape)}")
    count = sum(item.numel() for item in model.adapter.parameters())
    print(
        f"{count:,} parameters to train; until then it knows nothing: {engine.ask(context, 'Where?').text!r}"
    )


if __name__ == "__main__":
    main()
