"""MVBench: twenty tasks about what happens in time (Li et al. 2023), as multiple choice."""

from collections.abc import Iterator

from ..benchmark import Average, Benchmark
from ..choices import letter_of_text, options
from ..row import Options, Row, Text
from ..sample import Sample, ask
from ..source import Source

FOLDERS = {
    "action_antonym": "ssv2_video_mp4",
    "action_count": "perception/videos",
    "action_localization": "sta/sta_video_segment",
    "action_prediction": "star/Charades_segment",
    "action_sequence": "star/Charades_segment",
    "character_order": "perception/videos",
    "counterfactual_inference": "clevrer/video_validation",
    "egocentric_navigation": "vlnqa",
    "episodic_reasoning": "tvqa/video_fps3_hq_segment",
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "fine_grained_pose": "nturgbd_convert",
    "moving_attribute": "clevrer/video_validation",
    "moving_count": "clevrer/video_validation",
    "moving_direction": "clevrer/video_validation",
    "object_existence": "clevrer/video_validation",
    "object_interaction": "star/Charades_segment",
    "object_shuffle": "perception/videos",
    "scene_transition": "scene_qa/video",
    "state_change": "perception/videos",
    "unexpected_action": "FunQA_test/test",
}
"""Subset -> folder of its videos. In this revision, videos of which a part is asked about are cut to that part."""
SPARE = "data0613"
"""Folder that holds some of the clips of CLEVRER and STAR."""


class Question(Row):
    """A row of a subset."""

    subset: str
    number: int = 0
    video: Text
    question: Text
    candidates: Options
    answer: Text


def rows(source: Source) -> Iterator[Question]:
    """Read the rows of all subsets, numbered in each."""
    for subset in FOLDERS:
        for number, row in enumerate(source.rows(f"json/{subset}.json", Question, subset=subset)):
            yield row.model_copy(update={"number": number})


def read(row: Question, source: Source) -> Sample:
    """Read a question about a video."""
    video = f"{FOLDERS[row.subset]}/{row.video}"
    path = source.media(row.where, video, f"{SPARE}/{video}")
    return Sample(
        f"{row.subset}/{row.number}",
        ask({"type": "video", "path": path}, f"Question:{row.question}\nOption:\n{options(row.candidates, '({}) ')}"),
        reference=letter_of_text(row.answer, row.candidates, row.where),
        cluster=video,
        where=row.where,
        choices=row.candidates,
        categories={"subset": row.subset},
    )


BENCHMARKS = (
    Benchmark(
        name="mvbench",
        title="MVBench",
        measures="Twenty tasks about what happens in time, as multiple choice. Broken down by task.",
        rows=rows,
        read=read,
        metric="multiple_choice",
        tree="json/action_antonym.json, ...    20 files\n"
        + "\n".join(f"{folder}/..." for folder in sorted(set(FOLDERS.values()))),
        origin="https://huggingface.co/datasets/OpenGVLab/MVBench/tree/video (revision video)",
        licence="MIT (questions); videos: of the sets that they come from",
        read_on="from the description, 2026-11-28 (the file list of "
        "https://huggingface.co/datasets/OpenGVLab/MVBench/tree/video; folders as lmms-eval 0.7.3 reads them)",
        average=Average(over="mean", axis="subset"),
        prompt="\nOnly give the best option.",
        max_new_tokens=16,
        note="4,000 questions, 200 in each subset; the score is the mean over subsets. Of revision main, whose videos "
        "are not cut, nothing is read. The publisher puts a system prompt in front and begins the answer; lmms-eval "
        "and this do not. Sound is heard by models with video_sound.",
    ),
)
"""All subsets."""

__all__ = ["BENCHMARKS"]
