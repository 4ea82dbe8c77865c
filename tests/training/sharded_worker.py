"""One of two processes that share a model out with FSDP2 and compare it with the whole model.

Run by torch.distributed.run with: the encoder's and the decoder's folder, the encoder's mode, a folder to
write into, and whether the processes agree on their passes.
"""

import copy
import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from small_parts import weights
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from e2llm.modeling import lora
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.training.checkpoints import load_weights
from e2llm.training.parallel import as_saved, flatten_scalars, largest_of_all, layer_class_names

TIMEOUT = timedelta(seconds=20)


def make_model(encoder, decoder, mode):
    """The same tiny model in each process, without dropout, its LoRA deltas not zero."""
    torch.manual_seed(5)
    model = E2LLMForConditionalGeneration.from_parts(
        encoder, decoder, adapter="attention", max_soft_tokens=2, adapter_num_heads=4
    )
    lora.set_modes(model, encoder=mode, decoder="lora")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.config.encoder_batch_tokens = 12
    return model.train()


def make_batch(rank, num_chunks, model):
    """A row of text with two soft tokens per chunk; without chunks it is text alone."""
    generator = torch.Generator().manual_seed(10 + rank)
    text = torch.randint(5, 300, (1, 9), generator=generator)
    soft = torch.full((1, 2 * num_chunks), model.config.chunk_token_id)
    ids = torch.cat([text[:, :2], soft, text[:, 2:]], dim=1)
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": ids.masked_fill(ids > 299, -100),
    }
    if num_chunks:
        lengths = torch.randint(1, 9, (num_chunks,), generator=generator)
        batch["chunk_input_ids"] = torch.randint(5, 90, (num_chunks, 8), generator=generator)
        batch["chunk_attention_mask"] = (torch.arange(8) < lengths[:, None]).long()
    return batch


def loss_of(model, batch):
    """Sum of the token losses: the mean of two processes' gradients is then half of the whole's."""
    return model(**batch, only_label_logits=True).token_losses.sum()


def shard(model):
    """As accelerate does it: each layer, then what is left. Returns the names of single numbers."""
    scalars = flatten_scalars(model)
    names = layer_class_names(model)
    for module in reversed(list(model.modules())):
        if type(module).__name__ in names:
            fully_shard(module)
    fully_shard(model)
    return scalars


def check_step(sharded, whole, chunks_of_rank):
    """Gradients of one step of all processes equal those of one process with all batches."""
    rank = dist.get_rank()
    batches = [make_batch(index, count, whole) for index, count in enumerate(chunks_of_rank)]
    sum(loss_of(whole, batch) for batch in batches).backward()
    loss_of(sharded, batches[rank]).backward()
    gradients = dict(whole.named_parameters())
    for name, parameter in sharded.named_parameters():
        if parameter.requires_grad:
            assert isinstance(parameter, DTensor), name
            expected = gradients[name].grad
            ours = parameter.grad.full_tensor().view_as(expected) * len(batches)
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5, msg=f"{chunks_of_rank} {name}")
    for model in (whole, sharded):
        model.zero_grad()  # before the evaluation, which leaves weights of the root gathered
    with torch.no_grad():
        torch.testing.assert_close(
            loss_of(sharded.eval(), batches[rank]), loss_of(whole.eval(), batches[rank])
        )
    for model in (whole, sharded):
        model.train()


def check_saving(sharded, whole, scalars, folder):
    """What is saved from the shares is what the whole model saves, and goes back into the shares."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(sharded, options=options)
    if dist.get_rank() == 0:
        whole.save_pretrained(folder / "whole")
        sharded.save_pretrained(folder / "shares", state_dict=as_saved(sharded, state, scalars))
        expected, saved = weights(folder / "whole"), weights(folder / "shares")
        assert expected.keys() == saved.keys()
        assert all(torch.equal(value, saved[name]) for name, value in expected.items())
    dist.barrier()
    with torch.no_grad():
        for parameter in sharded.parameters():
            parameter.mul_(0 if parameter.requires_grad else 1)
    load_weights(sharded, folder / "shares")
    for name, value in get_model_state_dict(sharded, options=options).items():
        assert not value.numel() or torch.equal(value, state[name]), name


def main(encoder, decoder, mode, folder, agrees):
    """Check ragged batches, both ways round, in training and evaluation."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=TIMEOUT)
    whole = make_model(encoder, decoder, mode)
    sharded = copy.deepcopy(whole)
    scalars = shard(sharded)
    sharded.agree_on_passes = largest_of_all if agrees == "agree" else None
    for chunks_of_rank in ([7, 0], [2, 5], [0, 0]):
        check_step(sharded, whole, chunks_of_rank)
    check_saving(sharded, whole, scalars, Path(folder))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # gloo's threads may still run, and now and then abort an interpreter that shuts down
