import warnings

import pytest
import torch
from torch.nn import functional
from transformers import TrainerCallback

from e2llm.errors import E2LLMError
from e2llm.training import arguments
from e2llm.training.arguments import training_arguments
from e2llm.training.run import make_trainer
from e2llm.training.samples.sample_set import OBJECTIVES


class GradientsOfStep(TrainerCallback):
    """Keeps the gradients of the last optimizer step."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients = {
            name: parameter.grad.clone()
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        }


def one_step(recipe):
    """Train one step; its gradients and its logged loss."""
    trainer = make_trainer(recipe)
    keeper = GradientsOfStep()
    trainer.add_callback(keeper)
    trainer.train()
    return keeper.gradients, trainer.state.log_history[0]["loss"]


def token_losses_by_objective(model, batches):
    """The cross-entropy of each predicted token, from full logits, row by row."""
    losses = {name: [] for name in OBJECTIVES}
    for batch in batches:
        inputs = {key: value for key, value in batch.items() if key not in ("labels", "objectives")}
        logits = model(**inputs).logits
        for row, labels, objective in zip(logits, batch["labels"], batch["objectives"][:, 0], strict=True):
            kept = labels[1:] != -100
            losses[OBJECTIVES[objective]].append(
                functional.cross_entropy(row[:-1][kept], labels[1:][kept], reduction="none")
            )
    return {name: torch.cat(values) for name, values in losses.items() if values}


ONE_STEP = {
    "steps": 1, "batch_size": 8, "evaluate_every_steps": 1, "save_every_steps": 1,
}  # fmt: skip


def test_the_logged_parts_sum_to_the_logged_loss_over_several_steps(recipe_of):
    train = {
        "steps": 4,
        "batch_size": 3,
        "log_every_steps": 4,
        "evaluate_every_steps": 4,
        "save_every_steps": 4,
    }
    trainer = make_trainer(recipe_of(objectives={"understanding": {"weight": 0.25}}, train=train))
    trainer.train()
    entry = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert entry["loss"] == pytest.approx(0.25 * entry["understanding_loss"] + entry["reasoning_loss"])


def test_the_loss_is_the_weighted_sum_of_the_objectives_mean_token_losses(recipe_of):
    recipe = recipe_of(objectives={"understanding": {"weight": 0.25}}, train=ONE_STEP)
    trainer = make_trainer(recipe)
    batch = next(iter(trainer.get_train_dataloader()))
    assert len(batch["objectives"].unique()) == 2
    trainer.model.eval()
    with torch.no_grad():
        losses = token_losses_by_objective(trainer.model, [batch])
        loss = trainer.compute_loss(trainer.model, batch)
    expected = losses["reasoning"].mean() + 0.25 * losses["understanding"].mean()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)


def test_the_mean_runs_over_the_whole_optimizer_step(recipe_of):
    recipe = recipe_of(train={**ONE_STEP, "batch_size": 2, "gradient_accumulation": 4})
    trainer = make_trainer(recipe)
    batches, counts = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 4, torch.device("cpu"))
    trainer.model.eval()
    with torch.no_grad():
        losses = token_losses_by_objective(trainer.model, batches)
        total = sum(
            trainer.compute_loss(trainer.model, batch, num_items_in_batch=counts) for batch in batches
        )
    expected = losses["reasoning"].mean() + losses["understanding"].mean()
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-5)


def test_sums_in_the_place_of_means(recipe_of):
    recipe = recipe_of(objectives={"reduction": "sum", "understanding": {"weight": 0.01}}, train=ONE_STEP)
    trainer = make_trainer(recipe)
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.eval()
    with torch.no_grad():
        losses = token_losses_by_objective(trainer.model, [batch])
        loss = trainer.compute_loss(trainer.model, batch)
    expected = losses["reasoning"].sum() + 0.01 * losses["understanding"].sum()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-3)


def test_a_batch_of_eight_equals_eight_accumulated_batches_of_one(recipe_of):
    together, loss = one_step(recipe_of(train=ONE_STEP))
    settings = {**ONE_STEP, "batch_size": 1, "gradient_accumulation": 8}
    one_by_one, other_loss = one_step(recipe_of(output="again", train=settings))
    assert loss == pytest.approx(other_loss, rel=1e-5)
    assert set(together) == set(one_by_one)
    largest = max(gradient.abs().max() for gradient in together.values())
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, one_by_one[name], rtol=1e-3, atol=1e-5 * largest, msg=name)


def assert_same_step(one, other, rtol=1e-3, atol=1e-5):
    (gradients, loss), (others, other_loss) = one, other
    assert loss == pytest.approx(other_loss, rel=1e-5)
    assert set(gradients) == set(others)
    largest = max(gradient.abs().max() for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, others[name], rtol=rtol, atol=atol * largest, msg=name)


def test_packed_samples_train_as_samples_in_rows_of_their_own(recipe_of):
    uneven = {"understanding": {"window_chunks": [1, 6]}}
    plain = one_step(recipe_of(train=ONE_STEP, objectives=uneven))
    recipe = recipe_of(output="again", train={**ONE_STEP, "packing": True}, objectives=uneven)
    batch = next(iter(make_trainer(recipe).get_train_dataloader()))
    assert len(batch["input_ids"]) < 8
    assert len(batch["objectives"].unique()) == 2
    assert_same_step(plain, one_step(recipe))


def test_kept_activations_of_the_encoder_change_no_gradient(recipe_of, steady_encoder):
    encoder = {"source": steady_encoder, "mode": "lora", "batch_tokens": 100}
    plain = one_step(recipe_of(encoder=encoder, train=ONE_STEP))
    encoder["unchecked_tokens"] = 300
    assert_same_step(plain, one_step(recipe_of(output="again", encoder=encoder, train=ONE_STEP)))


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_checkpointed_activations_give_the_same_gradients_without_a_warning(recipe_of, mode):
    sections = {"decoder": {"mode": mode}, "encoder": {"mode": mode}}
    plain, _ = one_step(recipe_of(train=ONE_STEP, **sections))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*checkpointing")
        saved, _ = one_step(
            recipe_of(output="again", train={**ONE_STEP, "gradient_checkpointing": True}, **sections)
        )
    assert set(plain) == set(saved)
    for name, gradient in plain.items():
        torch.testing.assert_close(gradient, saved[name], rtol=1e-4, atol=1e-6, msg=name)


def test_the_decoder_does_recompute_its_activations(recipe_of):
    trainer = make_trainer(recipe_of(train={**ONE_STEP, "gradient_checkpointing": True}))
    modules = list(trainer.model.language_model.modules())
    assert any(getattr(module, "gradient_checkpointing", False) for module in modules)


def test_samples_prepared_by_a_worker_process_train_the_same(recipe_of):
    here, loss = one_step(recipe_of(train=ONE_STEP))
    there, other_loss = one_step(recipe_of(output="again", train={**ONE_STEP, "dataloader_workers": 1}))
    assert loss == other_loss
    assert all(torch.equal(gradient, there[name]) for name, gradient in here.items())


def test_held_out_losses_are_means_over_tokens(recipe_of):
    trainer = make_trainer(recipe_of(train={"evaluate_samples": 5, "batch_size": 2}))
    metrics = trainer.evaluate()
    trainer.model.eval()
    with torch.no_grad():
        samples = [trainer.eval_dataset["reasoning"][index] for index in range(5)]
        losses = token_losses_by_objective(trainer.model, [trainer.data_collator([item]) for item in samples])
    assert metrics["eval_reasoning_loss"] == pytest.approx(losses["reasoning"].mean().item(), rel=1e-5)


class Spoil(TrainerCallback):
    """Breaks the second step, by a value or by a gradient."""

    def __init__(self, what):
        self.what = what

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == 1:
            scale = model.adapter.scale
            if self.what == "loss":
                scale.data.fill_(float("nan"))
            else:
                scale.register_hook(lambda gradient: gradient * float("inf"))


@pytest.mark.parametrize("what", ["loss", "gradient norm"])
def test_a_loss_or_gradient_that_is_no_number_stops_the_run_at_its_step(recipe_of, what):
    trainer = make_trainer(recipe_of())
    trainer.add_callback(Spoil(what))
    with pytest.raises(
        E2LLMError, match=rf"the {what} is (nan|inf|-inf) at step 2 of 4\. .*train\.learning_rate"
    ):
        trainer.train()
    assert all(parameter.isfinite().all() for parameter in trainer.model.language_model.parameters())


def test_only_deltas_and_the_adapter_train_under_lora(recipe_of):
    trainer = make_trainer(recipe_of(encoder={"mode": "lora"}, decoder={"mode": "lora"}))
    names = [name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad]
    assert all("lora_" in name or name.startswith("adapter.") for name in names)
    assert {name.split(".")[0] for name in names} == {"chunk_encoder", "adapter", "language_model"}


def test_what_trains_is_held_in_full_precision(recipe_of):
    trainer = make_trainer(recipe_of(decoder={"mode": "lora", "dtype": "bfloat16"}))
    kinds = {parameter.requires_grad: set() for parameter in trainer.model.language_model.parameters()}
    for parameter in trainer.model.language_model.parameters():
        kinds[parameter.requires_grad].add(parameter.dtype)
    assert kinds == {True: {torch.float32}, False: {torch.bfloat16}}
    assert {parameter.dtype for parameter in trainer.model.adapter.parameters()} == {torch.float32}


@pytest.mark.parametrize(("has_bf16", "precision"), [(True, "bf16"), (False, "fp32")])
def test_auto_takes_bf16_only_where_the_cpu_has_it(monkeypatch, has_bf16, precision):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(arguments, "cpu_has_bf16", lambda: has_bf16)
    assert arguments.resolve_precision("auto") == precision
    assert arguments.resolve_precision("fp32") == "fp32"


def test_fp16_without_a_gpu_is_refused_and_not_ignored(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(E2LLMError, match="fp16 needs a GPU"):
        arguments.resolve_precision("fp16")


def test_the_best_checkpoint_is_chosen_by_the_reasoning_loss_where_there_is_one():
    assert arguments.best_metric(["understanding", "reasoning"]) == "eval_reasoning_loss"
    assert arguments.best_metric(["understanding"]) == "eval_understanding_loss"
    assert arguments.best_metric([]) is None


def test_a_constant_learning_rate_warms_up_all_the_same(recipe_of):
    train = {"schedule": "constant", "warmup_fraction": 0.5, "evaluate_every_steps": 4, "save_every_steps": 4}
    trainer = make_trainer(recipe_of(train=train))
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]
    assert rates == pytest.approx([0.0, 5e-4, 1e-3, 1e-3])


def test_a_run_of_a_single_step_learns_something(recipe_of):
    recipe = recipe_of(train={"steps": 1, "evaluate_every_steps": 1, "save_every_steps": 1})
    assert training_arguments(recipe, None).get_warmup_steps(1) == 0
    recipe.train.steps = 100
    assert training_arguments(recipe, None).get_warmup_steps(100) == 5
