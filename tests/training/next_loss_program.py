"""Prints the language loss that a model folder has on the rows of a step of a stage: MODEL STAGE.yaml STEP."""

import sys
from itertools import islice

import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor

from training.config.recipe import load_recipe
from training.config.training_arguments import arguments_for_estimate
from training.data import MixtureBatches
from training.trainer.data import read_data, schedule_data


def main() -> None:
    model = AutoModelForMultimodalLM.from_pretrained(sys.argv[1]).eval()
    (config,) = load_recipe(sys.argv[2]).stages.values()
    args = arguments_for_estimate(config)
    dataset, _ = read_data(config)
    plan, collator = schedule_data(config.data, dataset, AutoProcessor.from_pretrained(sys.argv[1]), args)
    step, rows = int(sys.argv[3]), args.per_device_train_batch_size
    batches = MixtureBatches(dataset, plan, batch_size=rows)
    (places,) = islice(batches, step - 1, step)
    batch = collator([dataset[place] for place in places])
    batch.pop("row_ids")
    with torch.no_grad():
        print(f"loss {float(model(**batch).losses['language']):.9f}")


if __name__ == "__main__":
    main()
