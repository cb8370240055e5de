"""Where unimoe was not imported: what importing it loads, and saved folders through the Auto classes with remote code,
after `import unimoe`, and in a pipeline.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_processor import FOLDER

from benchmarks.imports import NEEDED

ROOT = Path(__file__).parents[1]
AUTO_CLASSES = ("AutoModel", "AutoModelForMultimodalLM", "AutoModelForImageTextToText")
ASK = """
processor = AutoProcessor.from_pretrained(FOLDER, **OPTIONS)
model = AutoModelForMultimodalLM.from_pretrained(FOLDER, **OPTIONS)
for kind, path in MEDIA.items():
    content = [{"type": kind, "path": path}, {"type": "text", "text": "what?"}]
    messages = [{"role": "user", "content": content}]
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert type(processor).__name__ == "UniMoEProcessor" and len(inputs) == 4, (type(processor), list(inputs))
    print(model.generate(**inputs, max_new_tokens=3).shape[1] - inputs["input_ids"].shape[1])
"""
PIPELINE = """
import unimoe
from transformers import pipeline
pipe = pipeline("image-text-to-text", model=FOLDER)
content = [{"type": "image", "path": MEDIA["image"]}, {"type": "text", "text": "what?"}]
answers = pipe([{"role": "user", "content": content}], max_new_tokens=2, return_full_text=False)
print(type(answers[0]["generated_text"]).__name__)
"""
WITHOUT_HEAVY_LIBRARIES = """
sys.modules.update(dict.fromkeys(["deepspeed", "timm", "torchaudio", "peft", "datasets"]))
import unimoe
from tiny import tiny_inputs, tiny_model
model = tiny_model(num_experts=4)
print(model(**tiny_inputs(model.config)).logits.isfinite().all().item())
"""
TASKS = {
    **{
        name: f"m = t.{name}.from_pretrained(FOLDER, **REMOTE); print(type(m).__module__, type(m.config).__name__)"
        for name in AUTO_CLASSES
    },
    "answers with remote code": f"OPTIONS = REMOTE\n{ASK}",
    "answers after import unimoe": f"import unimoe\nOPTIONS = {{}}\n{ASK}",
    "pipeline": PIPELINE,
    "without heavy libraries": WITHOUT_HEAVY_LIBRARIES,
    "modules added": "before = set(sys.modules); import unimoe; print(*sys.modules.keys() - before)",
}
# What all tasks need is imported once; each task then runs in a child process that has not imported unimoe.
CHILDREN = f"""
import json, os, sys
import transformers as t
{NEEDED}
"""
CHILDREN += """
FOLDER, OUT, MEDIA, TASKS = json.loads(sys.argv[1])
REMOTE = {"trust_remote_code": True}
for number, task in enumerate(TASKS):
    assert "unimoe" not in sys.modules
    if (child := os.fork()) == 0:
        sys.stdout = open(f"{OUT}/{number}", "w")
        exec(task, globals())
        sys.stdout.close()
        os._exit(0)
    os.waitpid(child, 0)
"""
MEDIA = {"image": FOLDER / "image_kind/food_00.png", "speech": FOLDER / "spoken_word/zero_flite-kal16.flac"}


@pytest.fixture(scope="module")
def answers(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Words that each task prints; none if it failed."""
    out = tmp_path_factory.mktemp("loading")
    media = {kind: str(path) for kind, path in MEDIA.items()}
    given = json.dumps([str(model_folder), str(out), media, list(TASKS.values())])
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "HF_MODULES_CACHE": str(out / "modules")}
    command = [sys.executable, "-c", CHILDREN, given]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    print(done.stderr)
    assert done.returncode == 0
    return {name: (out / str(number)).read_text().split() for number, name in enumerate(TASKS)}


@pytest.mark.parametrize("name", AUTO_CLASSES)
def test_a_saved_folder_loads_with_remote_code_where_unimoe_was_not_imported(
    answers: dict[str, list[str]], name: str
) -> None:
    assert answers[name] == ["unimoe.modeling_unimoe", "UniMoEConfig"]


@pytest.mark.parametrize("how", ["with remote code", "after import unimoe"])
def test_a_fresh_process_answers_about_an_image_and_about_speech(answers: dict[str, list[str]], how: str) -> None:
    """A lazy `unimoe` would be lighter, but `import unimoe` has to make the Auto classes know it."""
    assert answers[f"answers {how}"] == ["3", "3"]


def test_the_image_text_to_text_pipeline_answers(answers: dict[str, list[str]]) -> None:
    assert answers["pipeline"] == ["str"]


def test_unimoe_runs_without_the_heavy_libraries(answers: dict[str, list[str]]) -> None:
    assert answers["without heavy libraries"] == ["True"]


def test_importing_unimoe_adds_few_modules(answers: dict[str, list[str]]) -> None:
    """Beyond what it registers with: today 11 of transformers, the layers of Llama and Whisper that unimoe is built
    from, and two base classes. Counted, not timed.
    """
    added = set(answers["modules added"])
    foreign = {name for name in added if name.partition(".")[0] != "unimoe"}
    assert {name.partition(".")[0] for name in foreign} <= {"transformers"}, foreign
    assert len(foreign) <= 15, sorted(foreign)
    assert "unimoe.modeling_unimoe" in added
    optional = {
        "unimoe.cli",
        "unimoe.build.model",
        "unimoe.surgery",
        "unimoe.analysis",
        "unimoe.presets",
        "unimoe.checkpoint.loading",
    }
    assert not optional & added
