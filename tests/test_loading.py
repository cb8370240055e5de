"""A saved folder in a fresh process: through the Auto classes, with and without `import unimoe`, and in a pipeline."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_processor import FOLDER

ASK = """
content = [{{"type": "{kind}", "path": "{path}"}}, {{"type": "text", "text": "what?"}}]
messages = [{{"role": "user", "content": content}}]
inputs = processor.apply_chat_template(
    messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
assert type(processor).__name__ == "UniMoEProcessor" and len(inputs) == 4, (type(processor), list(inputs))
print(model.generate(**inputs, max_new_tokens=3).shape[1] - inputs["input_ids"].shape[1])
"""
MEDIA = {"image": FOLDER / "image_kind/food_00.png", "speech": FOLDER / "spoken_word/zero_flite-kal16.flac"}


def run(code: str, cache: Path) -> str:
    environment = {**os.environ, "HF_MODULES_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize("remote_code", [False, True])
def test_a_fresh_process_answers_about_an_image_and_about_speech(
    model_folder: Path, tmp_path: Path, remote_code
) -> None:
    option = "trust_remote_code=True" if remote_code else ""
    code = "from transformers import AutoModelForMultimodalLM, AutoProcessor\n"
    code += "" if remote_code else "import unimoe\n"
    code += f"processor = AutoProcessor.from_pretrained({str(model_folder)!r}, {option})\n"
    code += f"model = AutoModelForMultimodalLM.from_pretrained({str(model_folder)!r}, {option})\n"
    code += "".join(ASK.format(kind=kind, path=path) for kind, path in MEDIA.items())
    assert run(code, tmp_path).split() == ["3", "3"]


def test_the_image_text_to_text_pipeline_answers(model_folder: Path, tmp_path: Path) -> None:
    code = f"""
import unimoe
from transformers import pipeline
pipe = pipeline("image-text-to-text", model={str(model_folder)!r})
content = [{{"type": "image", "path": {str(MEDIA["image"])!r}}}, {{"type": "text", "text": "what?"}}]
answers = pipe([{{"role": "user", "content": content}}], max_new_tokens=2, return_full_text=False)
print(type(answers[0]["generated_text"]))
"""
    assert run(code, tmp_path) == "<class 'str'>"
