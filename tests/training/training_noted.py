"""`python -m training`, with a note of the rows of each batch that is learned from, in OUTPUT/rows-RANK.jsonl."""

import json
import os
from pathlib import Path
from typing import Any

from training.__main__ import app
from training.trainer.trainer import StageTrainer

learn = StageTrainer.training_step


def note(self: StageTrainer, model: Any, inputs: dict[str, Any], *args: Any) -> Any:
    line = {"process": os.getpid(), "step": self.state.global_step, "rows": inputs["row_ids"]}
    with open(Path(str(self.args.output_dir)) / f"rows-{self.args.process_index}.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")
    return learn(self, model, inputs, *args)


if __name__ == "__main__":
    StageTrainer.training_step = note  # type: ignore[method-assign]
    app()
