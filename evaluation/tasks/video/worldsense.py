"""WorldSense: multiple choice about videos that must be seen and heard (Hong et al. 2025)."""

from collections.abc import Iterator

from ...errors import EvaluationError
from ..benchmark import LETTER, Benchmark
from ..choices import letter_of, without_labels
from ..fields import need_list, need_text, need_texts
from ..sample import Sample, ask
from ..source import Row, Source, as_row

ANNOTATIONS = "worldsense_qa.json"


def read(source: Source) -> Iterator[Sample]:
    """The questions `task0`, `task1`, ... of each video."""
    for where, video, row in source.keyed(ANNOTATIONS):
        tasks = {key: value for key, value in row.items() if key.startswith("task")}
        if not tasks:
            raise EvaluationError(f"{where}: no question; expected 'task0'. Remove the video, or complete the file.")
        domain = need_text(row, where, "domain")
        for key, task in tasks.items():
            place = f"{where}, {key!r}"
            item = {"type": "video", "path": source.media(place, f"videos/{video}.mp4")}
            yield _sample(as_row(task, place), place, video, key, item, domain)


def _sample(task: Row, where: str, video: str, key: str, item: Row, domain: str) -> Sample:
    question, answer, kind = need_texts(task, where, "question", "answer", "task_type")
    labelled = need_list(task, where, "candidates", at_least=2)
    choices = without_labels(labelled, where)
    letter = letter_of(answer, choices, where)
    messages = ask(item, "\n".join((question, *labelled)))
    categories = {"domain": domain, "task": kind}
    return Sample(f"{video}/{key}", messages, letter, (letter,), video, where, choices, categories=categories)


BENCHMARKS = (
    Benchmark(
        name="worldsense",
        title="WorldSense",
        measures="Multiple choice about videos that must be seen and heard. Broken down by domain and task.",
        read=read,
        metric="multiple_choice",
        tree=f"{ANNOTATIONS}\nvideos/VIDEO.mp4    of the archives",
        origin="https://huggingface.co/datasets/honglyhly/WorldSense",
        licence="not stated in the publisher's README; see the data card",
        read_on="from the description, 2026-11-28 (https://github.com/JaaackHongggg/WorldSense; keys of the file as "
        "VLMEvalKit, the publisher's evaluation, reads them)",
        prompt=LETTER,
        max_new_tokens=128,
        note="3,172 questions about 1,662 videos. The sound of a video is heard as the model is built to: through its "
        "option video_sound. A model without it sees frames alone, and its score is one without sound. VLMEvalKit and "
        "lmms-eval put longer instructions in front; lmms-eval allows 1,024 tokens, and takes A where no letter is "
        "found.",
    ),
)
"""Videos with their sound."""

__all__ = ["BENCHMARKS"]
