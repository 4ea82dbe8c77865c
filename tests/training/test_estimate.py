from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel, Qwen2Config, Qwen2ForCausalLM

from e2llm.training import estimate as paper
from e2llm.training.blueprint import draw
from e2llm.training.build import build, set_modes
from e2llm.training.collator import SampleCollator
from e2llm.training.devices import DEVICES, find_device
from e2llm.training.estimate_report import insert
from e2llm.training.recipe import load_recipe, validate
from e2llm.training.sample_sizes import Assumptions, SampleSize, longest_samples, mean_samples
from e2llm.training.samples import Sample

MODES = [("frozen", "full"), ("lora", "lora"), ("full", "frozen")]


def real_model(recipe):
    model, processor = build(recipe, [])
    set_modes(model, recipe)
    model.train()
    return model, processor


def one_step(model, batch):
    """A step of AdamW on a batch; returns the optimizer."""
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    model(**batch, only_label_logits=True, use_cache=False).loss.backward()
    optimizer.step()
    return optimizer


def batch_of(processor, chunks=6, soft_tokens=2):
    """One question over chunks of equal length, and its size."""
    layout = processor.lay_out(
        [f"{n:02}" + "x" * 60 for n in range(chunks)],
        "Which boat?",
        "It is 1007.",
        num_soft_tokens=soft_tokens,
    )
    batch = dict(SampleCollator(processor)([Sample(layout, 2)]))
    batch.pop("objectives")
    size = SampleSize(
        len(layout.input_ids),
        sum(label != -100 for label in layout.labels[1:]),
        *batch["chunk_input_ids"].shape,
        soft_tokens,
    )
    return batch, size


@pytest.mark.parametrize(("read_by", "answered_by"), MODES)
def test_weights_gradients_and_moments_are_those_of_the_real_objects(recipe_of, read_by, answered_by):
    recipe = recipe_of(encoder={"mode": read_by}, decoder={"mode": answered_by, "dtype": "bfloat16"})
    model, processor = real_model(recipe)
    optimizer = one_step(model, batch_of(processor)[0])
    memory = paper.static_memory(recipe, draw(recipe))
    for part, module in (("encoder", model.chunk_encoder), ("decoder", model.language_model)):
        assert memory[f"{part} weights"] == sum(p.nbytes for p in module.parameters())
    assert memory["adapter weights"] == sum(p.nbytes for p in model.adapter.parameters())
    assert memory["gradients"] == sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert memory["optimizer states"] == sum(moment.nbytes for moment in moments)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("read_by", "answered_by"), MODES)
def test_the_operations_are_those_that_torch_counts(recipe_of, read_by, answered_by, checkpointing):
    recipe = recipe_of(
        encoder={"mode": read_by},
        decoder={"mode": answered_by},
        adapter={"num_heads": 4},
        train={"gradient_checkpointing": checkpointing},
    )
    model, processor = real_model(recipe)
    for part in (model.chunk_encoder, model.language_model):
        part.set_attn_implementation("eager")  # torch counts no other attention on a CPU
    batch, size = batch_of(processor, chunks=12)
    with FlopCounterMode(display=False) as counter:
        one_step(model, batch)
    on_paper = sum(paper.sample_flops(recipe, draw(recipe), size).values())
    assert on_paper == pytest.approx(counter.get_total_flops(), rel=0.1)


def kept_bytes(model, run):
    """Bytes that autograd keeps for the backward pass, weights not counted."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(size for size, _ in kept.values())


SHAPE = {"vocab_size": 64, "hidden_size": 192, "intermediate_size": 512, "num_attention_heads": 6}


def test_a_decoder_layer_keeps_about_as_much_as_the_formula_says():
    def kept(layers):
        config = Qwen2Config(**SHAPE, num_key_value_heads=2, num_hidden_layers=layers)
        model = Qwen2ForCausalLM(config).to(torch.bfloat16).train()
        rows = torch.randn(1, 256, 192, dtype=torch.bfloat16, requires_grad=True)
        return config, kept_bytes(model, lambda: model.model(inputs_embeds=rows, use_cache=False))

    (config, three), (_, one) = kept(3), kept(1)
    on_paper = paper.layer_bytes(config, "half", paper._DECODER_BYTES)
    assert on_paper == pytest.approx((three - one) / 2 / 256, rel=0.2)


def test_an_encoder_layer_keeps_about_as_much_as_the_formula_says():
    def kept(layers):
        config = BertConfig(**SHAPE, num_hidden_layers=layers, attention_probs_dropout_prob=0.0)
        model = BertModel(config, add_pooling_layer=False).train()
        return config, kept_bytes(model, lambda: model(input_ids=torch.ones(2, 128, dtype=torch.long)))

    (config, three), (_, one) = kept(3), kept(1)
    on_paper = paper.layer_bytes(config, "float32", paper._ENCODER_BYTES)
    assert on_paper == pytest.approx((three - one) / 2 / 256, rel=0.2)


def test_several_devices_hold_the_gradients_twice_and_mixed_precision_copies_what_trains(recipe_of):
    recipe = recipe_of(decoder={"mode": "lora"})
    model = draw(recipe)
    alone = paper.static_memory(recipe, model)
    several = paper.static_memory(recipe, model, num_devices=8, is_mixed=True)
    assert several["gradients to add up"] == alone["gradients"]
    assert 0 < several["half-precision copies"] <= alone["gradients"] / 2


@pytest.mark.parametrize(("parallel", "shared"), [("zero2", False), ("zero3", True), ("fsdp2", True)])
def test_sharding_shares_out_what_it_says(parallel, shared):
    plain, recipe = qwen(), qwen(parallel=parallel)
    alone = paper.static_memory(plain, draw(plain))
    among = paper.static_memory(recipe, draw(recipe), num_devices=8)
    assert among["optimizer states"] == alone["optimizer states"] / 8
    assert among["gradients"] == alone["gradients"] / 8
    assert "gradients to add up" not in among
    assert among["decoder weights"] == alone["decoder weights"] / (8 if shared else 1)


def test_checkpointing_keeps_the_input_of_each_layer_and_one_layer():
    size = {"reasoning": SampleSize(1000, 10)}
    memories = [
        paper.activation_memory(recipe, draw(recipe), size, is_mixed=True)["decoder activations"]
        for recipe in (qwen(gradient_checkpointing=False), qwen(gradient_checkpointing=True))
    ]
    of_layer = 25 * 3584 + 4 * 512 + 8 * 18944
    assert memories == [1000 * 28 * of_layer, 1000 * (28 * 3584 * 2 + of_layer)]


def qwen(**train):
    return validate(
        {
            "name": "big",
            "encoder": {"source": "thenlper/gte-large"},
            "decoder": {"source": "Qwen/Qwen2.5-7B-Instruct", "dtype": "bfloat16"},
            "data": {"train": [{"path": "x.jsonl"}]},
            "train": {"batch_size": 1, "precision": "bf16", **train},
        },
        "test",
    )


def test_a_recipe_of_real_size_is_estimated_without_weights():
    result = paper.estimate(qwen(gradient_checkpointing=True, steps=1000))
    assert result.parameters["decoder"][1] - result.parameters["decoder"][0] == 7_615_616_512
    assert result.memory["decoder weights"] > 2 * 7_615_616_512
    assert 17 < result.memory_gib < 40
    slow, fast = (result.hours(DEVICES[name], Assumptions()) for name in ("a100-80gb", "h100"))
    assert slow / fast == pytest.approx(989 / 312)


def test_without_a_limit_the_longest_context_fills_the_window():
    recipe = qwen()
    assert longest_samples(recipe, 4096, Assumptions())["reasoning"].positions == pytest.approx(4096, abs=8)


def test_the_table_in_the_document_is_the_present_one():
    root = Path(__file__).parents[2]
    document = (root / "docs" / "scaling.md").read_text(encoding="utf-8")
    files = [
        file for folder in ("recipes",) for file in sorted((root / folder).glob("*.yaml"))
    ]
    recipes = [item for file in files for item in load_recipe(file)]
    assert insert(document, recipes) == document, (
        "run: python -m e2llm.training.estimate_report docs/scaling.md recipes/*.yaml"
    )


def test_an_unknown_device_is_an_error():
    with pytest.raises(Exception, match="unknown device 'v100'; choose one of: h200, h100"):
        find_device("v100")


def test_the_mean_sample_has_the_raw_chunks_that_its_files_ask_for(recipe_of):
    files = [
        {"path": "a.jsonl", "weight": 3.0, "expand_fraction": 1.0},
        {"path": "b.jsonl", "weight": 1.0},
        {"path": "c.jsonl", "weight": 9.0, "objectives": ["understanding"], "expand_fraction": 1.0},
    ]
    reasoning = {"max_chunks": 10, "expand_max_chunks": 3, "expand_fraction": 0.2}
    recipe = recipe_of(data={"train": files}, objectives={"reasoning": reasoning})
    mean = mean_samples(recipe, None, Assumptions())["reasoning"]
    assert mean.chunks == pytest.approx(10 - 2 * (0.75 * 1.0 + 0.25 * 0.2))
