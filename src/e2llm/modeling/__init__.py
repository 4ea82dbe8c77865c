"""The model as transformers sees it: configuration, adapters, model, processor, LoRA, checkpoints."""
